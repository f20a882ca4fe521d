"""The vision experiment's own figures: along training, of its ablation and data."""

import collections
import pathlib
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from examples.methods import classp, plain
from examples.report.lines import (
    GREY,
    End,
    draw_mean,
    label_ends,
    looks,
    open_frame,
    save,
)
from examples.report.measures import (
    Rows,
    boundary,
    curve,
    mean_deviation,
    updated,
)
from examples.report.style import Lines, accuracy_label, legend_below, with_seeds
from examples.runner.data import Task
from examples.vision.ablation import Ablation
from examples.vision.phases import TASKS


def save_training(
    lines: Lines, path: pathlib.Path, *, with_dropout: bool = False
) -> None:
    """Draws accuracy along training: means, and a deviation to both sides.

    Args:
      lines: by their labels.
      path: where to save the PNG; an SVG comes beside it.
      with_dropout: whether to take the accuracies with dropout left on.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    named = with_seeds(lines)
    of_lines = looks([family for family, _ in lines.values()])
    labels: list[tuple[Axes, list[End]]] = []
    for (task, title), ax in zip(TASKS.items(), axes, strict=True):
        ends, highest = [], 0.0
        for (label, (_, rows)), look in zip(lines.items(), of_lines, strict=True):
            curves = [curve(r, task, with_dropout=with_dropout) for r in rows]
            steps = curves[0][0]
            accuracies = np.array([of_seed for _, of_seed in curves])
            ends.append(draw_mean(ax, steps, accuracies, named[label], look))
            switch = boundary(rows[0], "mnist")
            highest = max(highest, accuracies.mean(0)[steps >= switch].max())
        last = [end.y for end in ends]
        # Before, all are alike; how far down the worst go isn't worth the room.
        ax.set(
            title=f"Accuracy on {title}",
            xlabel=f"step; {TASKS['fashion_mnist']} begins at the dotted line",
            xlim=(switch - (steps[-1] - switch) / 4, steps[-1]),
            ylim=(max(min(last) - 5, max(last) - 40), min(highest + 2, 100)),
        )
        ax.axvline(switch, color=GREY, ls=":", lw=1)
        open_frame(ax)
        labels.append((ax, ends))
    axes[0].set_ylabel(accuracy_label("test", with_dropout))
    for ax, ends in labels:
        label_ends(ax, ends)
    save(figure, path)


def save_ablation(
    found: list[tuple[Ablation, Rows]],
    path: pathlib.Path,
    *,
    with_dropout: bool = False,
) -> None:
    """Draws accuracies and sparsity against the threshold.

    Args:
      found: the points, each with its rows.
      path: where to save the PNG; an SVG comes beside it.
      with_dropout: whether to take the accuracies with dropout left on.
    """
    columns = {
        "second": ("θ on the second task", "fashion_mnist"),
        "first": ("θ on the first task", "mnist"),
        "both": ("θ on both tasks", "fashion_mnist"),
    }
    run = {ablation.where for ablation, _ in found if ablation.threshold}
    columns = {k: column for k, column in columns.items() if k in run or not run}
    found = [point for point in found if point[0].where in columns]
    width = 3 * len(columns) if len(columns) > 1 else 5
    figure = Figure(figsize=(width, 7.5), layout="constrained")
    grid = figure.subplots(3, len(columns), sharex=True, sharey="row", squeeze=False)
    points = collections.defaultdict(list)
    for ablation, rows in found:
        quantities = [
            *(mean_deviation(rows, task, "test", with_dropout)[0] for task in TASKS),
            np.mean([updated(r, columns[ablation.where][1]) for r in rows]),
        ]
        points[ablation[:3]].append((ablation.threshold, *quantities))
    colours = {False: plain.SGD.colour, True: classp.FAMILY.colour}
    for (where, relative, all_), of_line in points.items():
        thresholds, *quantities = np.array(sorted(of_line)).T
        column = grid[:, list(columns).index(where)]
        for ax, values in zip(column, quantities, strict=True):
            ax.plot(
                thresholds,
                values,
                color=colours[relative],
                ls="-" if all_ else "--",
                marker="o" if all_ else "s",
                mfc=colours[relative] if all_ else "white",
                ms=4,
                lw=1.4,
            )
    for column, (title, task) in zip(grid.T, columns.values(), strict=True):
        column[0].set_title(title)
        column[2].set_xlabel("θ")
        of_steps = dict(transform=column[2].transAxes, fontsize="small")
        column[2].text(0.05, 0.05, f"of steps on {TASKS[task]}", **of_steps)
    for ax in grid.flat:
        ax.set_xscale("symlog", linthresh=1e-8)
        ax.set_xticks([0, 1e-8, 1e-6, 1e-4, 1e-2, 1])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    without = [rows for ablation, rows in found if not ablation.threshold]
    for (task, title), row in zip(TASKS.items(), grid, strict=False):
        row[0].set_ylabel(f"{title}:\n{accuracy_label('test', with_dropout)}")
        if without:  # What falls further than that needs no scale.
            middle, _ = mean_deviation(without[0], task, "test", with_dropout)
            highest = max(ax.dataLim.y1 for ax in row)
            row[0].set_ylim(max(0, middle - 15), min(100, highest + 1))
    grid[2, 0].set_ylabel("weights updated\nper step, %")
    grid[2, 0].set_yscale("log")
    grid[2, 0].yaxis.set_major_formatter("{x:g}")
    for ax in grid[2]:
        ax.minorticks_off()
    kinds: dict[str, dict[str, Any]] = {
        "g² > θ": dict(color=colours[False]),
        "g² > θ·mean(g²)": dict(color=colours[True]),
        "sum of every gradient": dict(color=GREY, marker="o"),
        "sum of those above θ": dict(color=GREY, marker="s", mfc="white", ls="--"),
    }
    handles = [Line2D([], [], label=label, **kind) for label, kind in kinds.items()]
    legend_below(figure, handles, columns=min(4, 1 + len(columns)))
    save(figure, path)


def save_samples(tasks: dict[str, Task], path: pathlib.Path) -> None:
    """Draws two images of each class, the counterpart of the paper's Figure 1.

    Args:
      tasks: the data sets by their names.
      path: where to save the PNG; an SVG comes beside it.
    """
    figure = Figure(figsize=(9, 1.3), layout="constrained")
    axes = figure.subplots(1, len(tasks))
    margin = ((0, 0), (2, 2), (2, 2))
    for (name, task), ax in zip(tasks.items(), axes, strict=True):
        images, labels = task.train
        columns = [
            np.vstack([*np.pad(images[labels == label, ..., 0][:2], margin)])
            for label in np.unique(labels)
        ]
        ax.imshow(np.hstack(columns), cmap="gray")
        ax.set(title=TASKS[name], xticks=[], yticks=[])
    save(figure, path)
