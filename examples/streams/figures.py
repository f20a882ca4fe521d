"""The figures of a stream: its accuracy matrices, and what is kept along it."""

import pathlib
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from examples.methods import ewc, joint, plain, replay
from examples.report.lines import (
    GREY,
    End,
    draw_mean,
    label_ends,
    looks,
    open_frame,
    save,
    wrapped,
)
from examples.report.measures import Rows
from examples.report.style import MARKERS, Line, Lines, accuracy_label, legend_below
from examples.report.tables import Found, best, fate
from examples.runner.plan import Family
from examples.runner.study import Study
from examples.streams.tables import average, matrix, mean_matrix

_COLUMNS = 3
_MOST_LINES = 6


def chosen(study: Study, found: Found) -> Lines:
    """Chooses what figures show, by the average accuracy of the best settings.

    Args:
      study: what was compared.
      found: the rows.

    Returns:
      The lines, at most six, the highest first: the best of each family of ours, SGD,
      the best of EWC, of replay, and of the others, which store no examples.
    """
    kinds: dict[str, tuple[str, Line]] = {}
    for front in study.fronts:
        if not front.methods.keys() & found.keys() or front.family == joint.FAMILY:
            continue
        rows = found[best(study, front, found)]
        family = front.family
        if all(fate(study, row) for row in rows):
            continue
        known = family.ours or family in (plain.SGD, ewc.FAMILY, replay.FAMILY)
        kind = family.title if known else "others"
        if kind not in kinds or _mean(study, kinds[kind][1].rows) < _mean(study, rows):
            kinds[kind] = front.title, Line(family, rows)
    highest = sorted(kinds.values(), key=lambda kind: -_mean(study, kind[1].rows))
    return dict(highest[:_MOST_LINES])


def _mean(study: Study, rows: Rows) -> float:
    return float(np.mean([average(study, row) for row in rows]))


def joint_rows(study: Study, found: Found) -> Rows:
    """The rows of joint training at its best setting; none if there are none."""
    for front in study.fronts:
        if front.family == joint.FAMILY and front.methods.keys() & found.keys():
            return found[best(study, front, found)]
    return []


def save_matrices(
    study: Study, found: Found, path: pathlib.Path, *, with_dropout: bool = False
) -> None:
    """Draws the accuracy matrix of a few methods, the mean over the seeds.

    Args:
      study: what was compared.
      found: the rows, at least one of them of a method that learns task by task.
      path: where to save the PNG; an SVG comes beside it.
      with_dropout: whether to take the accuracies with dropout left on.
    """
    lines = chosen(study, found)
    columns = min(_COLUMNS, len(lines))
    count = -(-len(lines) // columns)
    figure = Figure(figsize=(1.4 + 2.5 * columns, 2.8 * count), layout="constrained")
    axes = figure.subplots(count, columns, squeeze=False, sharex=True, sharey=True)
    every = np.arange(len(study.tasks))
    means = {
        label: mean_matrix(study, rows, with_dropout)
        for label, (_, rows) in lines.items()
    }
    # Tasks still to come are no result: neither drawn nor on the scale.
    to_come = np.triu(np.ones((len(every), len(every)), bool), 1)
    lowest = min(mean[~to_come].min() for mean in means.values())
    scale = dict(vmin=10 * (lowest // 10), vmax=100, cmap="viridis")
    for ax in axes.flat[len(lines) :]:
        ax.set_axis_off()
    for ax, (label, mean) in zip(axes.flat, means.items(), strict=False):
        image = ax.imshow(np.ma.masked_array(mean, to_come), **scale)
        title = wrapped(label, 28)
        ax.set_title(f"{title}\naverage {mean[-1].mean():.1f} %", fontsize=9)
        ax.set(xticks=every, xticklabels=every + 1)
        ax.set(yticks=every, yticklabels=every + 1)
        ax.tick_params(labelsize="x-small")
        ax.spines[["top", "right"]].set_visible(False)
    figure.colorbar(image, ax=axes, label="accuracy, %", shrink=0.8)
    figure.supxlabel("on task", fontsize="small")
    figure.supylabel("after task", fontsize="small")
    save(figure, path)


def save_curves(
    study: Study, found: Found, path: pathlib.Path, *, with_dropout: bool = False
) -> None:
    """Draws accuracy after each task: on all so far, and on the first.

    Args:
      study: what was compared.
      found: the rows, at least one of them of a method that learns task by task.
      path: where to save the PNG; an SVG comes beside it.
      with_dropout: whether to take the accuracies with dropout left on.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    lines = chosen(study, found)
    steps = np.arange(1, len(study.tasks) + 1)
    ends: list[list[End]] = [[], []]
    of_lines = looks([family for family, _ in lines.values()])
    for (label, (_, rows)), look in zip(lines.items(), of_lines, strict=True):
        of_seeds = np.array(
            [matrix(study, row, with_dropout=with_dropout) for row in rows]
        )
        drawn = draw_along(axes[0], axes[1], of_seeds, label, look)
        for ends_of, end in zip(ends, drawn, strict=True):
            ends_of.append(end)
    if at_once := joint_rows(study, found):
        final = mean_matrix(study, at_once, with_dropout)[-1]
        for ax, ends_of, y in zip(axes, ends, (final.mean(), final[0]), strict=True):
            ax.plot(steps[-1], y, "*", ms=10, color=GREY, zorder=4)
            ends_of.append(End(steps[-1], y, "Joint training", GREY))
    for ax, title in zip(axes, ("all tasks so far", "the first task"), strict=True):
        ax.set(title=f"Accuracy on {title}", xlabel="after task", xticks=steps)
        open_frame(ax)
    axes[0].set_ylabel(accuracy_label("test", with_dropout))
    axes[0].set_ylim(*axes[0].get_ylim())
    for ax, ends_of in zip(axes, ends, strict=True):
        label_ends(ax, ends_of)
    save(figure, path)


def draw_along(
    so_far: Axes, first: Axes, accuracies: np.ndarray, label: str, look: dict[str, Any]
) -> tuple[End, End]:
    """Draws a method's accuracy after each task.

    Args:
      so_far: where to draw that on all tasks so far.
      first: where to draw that on the first task.
      accuracies: (seeds, tasks, tasks), after each task (rows) on each.
      label: of the lines.
      look: theirs.

    Returns:
      Where the two lines end.
    """
    steps = np.arange(1, accuracies.shape[-1] + 1)
    on_all = np.cumsum(accuracies, -1)[:, steps - 1, steps - 1] / steps
    return (
        draw_mean(so_far, steps, on_all, label, look),
        draw_mean(first, steps, accuracies[:, :, 0], label, look),
    )


class Dots(NamedTuple):
    """A line of dots: a method's regrets.

    Attributes:
      title: what to call it.
      family: whose colour it has.
      mean: of the regrets.
      points: the regret on each stream, with the benchmark's title.
    """

    title: str
    family: Family
    mean: float
    points: list[tuple[str, float]]


def save_regrets(by_network: dict[str, list[Dots]], path: pathlib.Path) -> None:
    """Draws what a setting costs that is chosen elsewhere, the least mean on top.

    Args:
      by_network: the methods, by the networks' names.
      path: where to save the PNG; an SVG comes beside it.
    """
    counts = [len(of) + 2 for of in by_network.values()]
    figure = Figure(figsize=(9, 1 + 0.26 * sum(counts)), layout="constrained")
    all_axes = figure.subplots(
        len(counts), 1, sharex=True, squeeze=False, height_ratios=counts
    )
    every = [p for of in by_network.values() for dots in of for p in dots.points]
    markers = dict(zip(dict.fromkeys(p[0] for p in every), MARKERS, strict=False))
    for ax, (network, of) in zip(all_axes.flat, by_network.items(), strict=True):
        lines = sorted(of, key=lambda dots: dots.mean, reverse=True)
        for y, (_, family, mean, points) in enumerate(lines):
            look = dict(color=family.colour if family.ours else GREY)
            worst = max(regret for _, regret in points)
            ax.plot([0, worst], [y, y], lw=0.8, alpha=0.5, **look)
            for benchmark, regret in points:
                ax.plot(regret, y, markers[benchmark], ms=5, mfc="none", **look)
            ax.plot(mean, y, "|", ms=14, mew=family.width + 1, **look)
        count = {len(dots.points) for dots in of}
        names = [
            title + f" ({len(points)} streams)" * (len(count) > 1)
            for title, _, _, points in lines
        ]
        ax.set(yticks=range(len(lines)), yticklabels=names, title=f"Network: {network}")
        ax.tick_params(axis="y", labelsize="small")
        ax.grid(alpha=0.3)
    all_axes.flat[-1].set_xlabel("regret, points of average accuracy; bar: the mean")
    handles = [
        Line2D([], [], color="black", ls="", marker=marker, mfc="none", label=title)
        for title, marker in markers.items()
    ]
    legend_below(figure, handles, columns=4)
    save(figure, path)


FIGURES = {"matrices": save_matrices, "curves": save_curves}
"""What a page of results shows, by the names of the files."""
