"""The vision experiment's figures."""

import collections
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from examples import report
from examples.continual import Split
from examples.report import Rows
from examples.vision.methods import Ablation, Front
from examples.vision.tables import TASKS


def save_fronts(
    fronts: list[tuple[Front, dict[str, Rows]]],
    joint: Rows,
    path: pathlib.Path,
    *,
    with_dropout: bool = False,
) -> None:
    """Draws what is kept of MNIST against what is learned of Fashion-MNIST.

    Args:
      fronts: each with the rows of its methods, of those that have any.
      joint: the rows of joint training, none where it wasn't run.
      path: where to save the PNG.
      with_dropout: whether to take the accuracies with dropout left on.
    """
    figure = Figure(figsize=(9, 6.2), layout="constrained")
    ax = figure.subplots()
    bests = []
    styles = _styles([front.title for front, _ in fronts])
    for (front, found), style in zip(fronts, styles, strict=True):
        y, x = (
            np.array([_mean_deviation(r, task, with_dropout) for r in found.values()])
            for task in TASKS
        )
        colour = style["color"]
        error_bars = dict(fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.5)
        ax.errorbar(x[:, 0], y[:, 0], y[:, 1], x[:, 1], **error_bars)
        ax.plot(x[:, 0], y[:, 0], label=_describe(front, found), **style)
        # The larger the value, the larger the marker.
        every = sorted(front.values.values())
        sizes = [20 + 100 * every.index(front.values[n]) / len(every) for n in found]
        face = colour if style["ls"] == "-" else "white"
        ax.scatter(x[:, 0], y[:, 0], sizes, face, edgecolors=colour, zorder=3)
        best = (x + y)[:, 0].argmax()
        bests.append((x[best, 0], y[best, 0]))
    if joint:
        y, x = (_mean_deviation(joint, task, with_dropout) for task in TASKS)
        bests.append((x[0], y[0]))
        label = "Joint training, on both at once"
        ax.scatter(*bests[-1], 160, "black", marker="*", label=label, zorder=3)
    # Where each is at its best; how the worse of them go on isn't worth the room.
    (left, bottom), (right, top) = np.min(bests, 0) - 3, np.max(bests, 0) + 1
    ax.set(
        xlim=(left, right),
        ylim=(bottom, min(top, 100)),
        xlabel=f"Fashion-MNIST, learned second: {_accuracy(with_dropout)}",
        ylabel=f"MNIST, learned first: {_accuracy(with_dropout)}",
        title="After both tasks; the larger the marker, the larger α, λ or share",
    )
    ax.grid(alpha=0.3)
    _legend_below(figure, ax.get_legend_handles_labels()[0], columns=2)
    figure.savefig(path, dpi=150)


def save_training(
    lines: dict[str, Rows], path: pathlib.Path, *, with_dropout: bool = False
) -> None:
    """Draws accuracy along training: means, and a deviation to both sides.

    Args:
      lines: the rows behind each line's label.
      path: where to save the PNG.
      with_dropout: whether to take the accuracies with dropout left on.
    """
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.subplots(1, 2)
    most = max(map(len, lines.values()))
    for (task, title), ax in zip(TASKS.items(), axes, strict=True):
        ends, highest = [], 0.0
        for (label, rows), style in zip(lines.items(), _styles(lines), strict=True):
            curves = [report.curve(r, task, with_dropout=with_dropout) for r in rows]
            steps = curves[0][0]
            accuracies = np.array([of_seed for _, of_seed in curves])
            mean, deviation = accuracies.mean(0), _deviation(accuracies)
            count = f" ({len(rows)} of {most} seeds)" if len(rows) < most else ""
            ax.plot(steps, mean, label=label + count, **style)
            band = dict(color=style["color"], alpha=0.12, lw=0)
            ax.fill_between(steps, mean - deviation, mean + deviation, **band)
            switch = report.boundary(rows[0], "mnist")
            ax.axvline(switch, color="0.5", ls=":", lw=1)
            ends.append(mean[-1])
            highest = max(highest, mean[steps >= switch].max())
        # Before, all are alike; how far down the worst go isn't worth the room.
        ax.set(
            title=title,
            xlabel="step (dotted: Fashion-MNIST begins)",
            xlim=(switch - (steps[-1] - switch) / 4, steps[-1]),
            ylim=(max(min(ends) - 5, max(ends) - 40), min(highest + 2, 100)),
        )
        ax.grid(alpha=0.3)
    axes[0].set_ylabel(_accuracy(with_dropout))
    _legend_below(figure, axes[0].get_legend_handles_labels()[0], columns=3)
    figure.savefig(path, dpi=150)


def save_ablation(
    found: list[tuple[Ablation, Rows]],
    path: pathlib.Path,
    *,
    with_dropout: bool = False,
) -> None:
    """Draws accuracies and sparsity against the threshold.

    Args:
      found: the points, each with its rows.
      path: where to save the PNG.
      with_dropout: whether to take the accuracies with dropout left on.
    """
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    grid = figure.subplots(3, 3, sharex=True, sharey="row")
    columns = {
        "second": ("θ on the second task", "fashion_mnist"),
        "first": ("θ on the first task", "mnist"),
        "both": ("θ on both tasks", "fashion_mnist"),
    }
    points = collections.defaultdict(list)
    for ablation, rows in found:
        quantities = [
            *(_mean_deviation(rows, task, with_dropout)[0] for task in TASKS),
            np.mean([report.updated(r, columns[ablation.where][1]) for r in rows]),
        ]
        points[ablation[:3]].append((ablation.threshold, *quantities))
    colours = {False: report.COLOURS["SGD"], True: report.COLOURS["CLASSP"]}
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
        ax.grid(alpha=0.3)
    without = [rows for ablation, rows in found if not ablation.threshold]
    for (task, title), row in zip(TASKS.items(), grid, strict=False):
        row[0].set_ylabel(f"{title}:\n{_accuracy(with_dropout)}")
        if without:  # What falls further than that needs no scale.
            middle, _ = _mean_deviation(without[0], task, with_dropout)
            highest = max(ax.dataLim.y1 for ax in row)
            row[0].set_ylim(max(0, middle - 15), min(100, highest + 1))
    grid[2, 0].set_ylabel("weights updated\na step, %")
    grid[2, 0].set_yscale("log")
    grid[2, 0].yaxis.set_major_formatter("{x:g}")
    grid[2, 0].yaxis.set_minor_formatter("")
    kinds = {
        "g² > θ": dict(color=colours[False]),
        "g² > θ·mean(g²)": dict(color=colours[True]),
        "sum of every gradient": dict(color="0.3", marker="o"),
        "sum of those above θ": dict(color="0.3", marker="s", mfc="white", ls="--"),
    }
    handles = [Line2D([], [], label=label, **kind) for label, kind in kinds.items()]
    _legend_below(figure, handles, columns=4)
    figure.savefig(path, dpi=150)


def save_samples(data_sets: dict[str, Split], path: pathlib.Path) -> None:
    """Draws two images of each class, the counterpart of the paper's Figure 1.

    Args:
      data_sets: images and labels by the name of their data set.
      path: where to save the PNG.
    """
    figure = Figure(figsize=(9, 1.3), layout="constrained")
    axes = figure.subplots(1, len(data_sets))
    margin = ((0, 0), (2, 2), (2, 2))
    for (name, split), ax in zip(data_sets.items(), axes, strict=True):
        columns = [
            np.vstack(np.pad(split.inputs[split.labels == label, ..., 0][:2], margin))
            for label in np.unique(split.labels)
        ]
        ax.imshow(np.hstack(columns), cmap="gray")
        ax.set(title=name, xticks=[], yticks=[])
    figure.savefig(path, dpi=150)


def _styles(labels: Iterable[str]) -> list[dict[str, Any]]:
    """A colour for each family of methods, another line for each of a family."""
    styles, seen = [], collections.Counter()
    for label in labels:
        # By the word alone: "AdaGrad" also begins "AdaGrad instance".
        family = label.replace(",", " ").split()[0]
        styles.append(
            {
                "color": report.COLOURS[family],
                "ls": ("-", "--", ":", "-.")[seen[family] % 4],
                "lw": 2.4 if family == "CLASSP" else 1.4,
            }
        )
        seen[family] += 1
    return styles


def _legend_below(figure: Figure, handles: list[Line2D], columns: int) -> None:
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        fontsize="small",
        frameon=False,
    )


def _accuracy(with_dropout: bool) -> str:
    return "test accuracy" + (", dropout on" if with_dropout else "") + ", %"


def _mean_deviation(rows: Rows, task: str, with_dropout: bool) -> tuple[float, float]:
    of_seeds = [report.accuracy(row, task, with_dropout=with_dropout) for row in rows]
    return np.mean(of_seeds), _deviation(np.array(of_seeds))


def _deviation(of_seeds: np.ndarray) -> np.ndarray:
    return of_seeds.std(0, ddof=1) if len(of_seeds) > 1 else 0 * of_seeds[0]


def _describe(front: Front, found: dict[str, Rows]) -> str:
    """A front's title, its values and what its methods keep, least to most."""
    values = [front.values[name] for name in found]
    kept = [rows[0]["results"][-1]["bytes_per_weight"] for rows in found.values()]
    return (
        f"{front.title}, {front.knob} {_range(values, '{:.6g}')}:"
        f" {_range(kept, '{:.2g}')} bytes a weight"
    )


def _range(numbers: list[float], form: str) -> str:
    least, most = (form.format(number) for number in (min(numbers), max(numbers)))
    return least if least == most else f"{least} to {most}"
