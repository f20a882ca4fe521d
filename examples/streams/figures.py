"""The figures of a stream: its accuracy matrices, and what is kept along it."""

import pathlib
import textwrap
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from examples.report.measures import deviation
from examples.report.style import MARKERS, Lines, legend_below, styles
from examples.runner.plan import Family
from examples.runner.study import Study
from examples.streams.tables import matrix, mean_matrix

_COLUMNS = 5


def save_matrices(
    study: Study, lines: Lines, path: pathlib.Path, *, with_dropout: bool = False
) -> None:
    """Draws the accuracy matrix of each method, the mean over its seeds.

    Args:
      study: what was compared.
      lines: by the methods' titles.
      path: where to save the PNG.
      with_dropout: whether to take the accuracies with dropout left on.
    """
    columns = min(_COLUMNS, len(lines))
    count = -(-len(lines) // columns)
    figure = Figure(figsize=(1 + 2.2 * columns, 2.6 * count), layout="constrained")
    axes = figure.subplots(count, columns, squeeze=False, sharex=True, sharey=True)
    every = np.arange(len(study.tasks))
    for ax in axes.flat[len(lines) :]:
        ax.set_axis_off()
    for ax, (label, (_, of_method)) in zip(axes.flat, lines.items(), strict=False):
        mean = mean_matrix(study, of_method, with_dropout)
        image = ax.imshow(mean, vmin=0, vmax=100, cmap="viridis")
        ax.set_title(textwrap.fill(label, 26), fontsize="small")
        ax.set(xticks=every, xticklabels=every + 1)
        ax.set(yticks=every, yticklabels=every + 1)
        ax.tick_params(labelsize="x-small")
    figure.colorbar(image, ax=axes, label="accuracy, %", shrink=0.8)
    figure.supxlabel("on task", fontsize="small")
    figure.supylabel("after task", fontsize="small")
    figure.savefig(path, dpi=150)


def save_curves(
    study: Study, lines: Lines, path: pathlib.Path, *, with_dropout: bool = False
) -> None:
    """Draws accuracy behind each task: on all so far, and on the first.

    Args:
      study: what was compared.
      lines: by the methods' titles, a phase a task.
      path: where to save the PNG.
      with_dropout: whether to take the accuracies with dropout left on.
    """
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    steps = np.arange(1, len(study.tasks) + 1)
    looks = styles(family for family, _ in lines.values())
    for (label, (_, of_method)), style in zip(lines.items(), looks, strict=True):
        of_seeds = np.array(
            [matrix(study, row, with_dropout=with_dropout) for row in of_method]
        )
        so_far = np.cumsum(of_seeds, -1)[:, steps - 1, steps - 1] / steps
        for ax, accuracies in zip(axes, (so_far, of_seeds[:, :, 0]), strict=True):
            mean, spread = accuracies.mean(0), deviation(accuracies)
            ax.plot(steps, mean, label=label, **style)
            band = dict(color=style["color"], alpha=0.12, lw=0)
            ax.fill_between(steps, mean - spread, mean + spread, **band)
    for ax, title in zip(axes, ("all tasks so far", "the first task"), strict=True):
        ax.set(title=f"On {title}", xlabel="after task", xticks=steps)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel(f"accuracy{', dropout on' * with_dropout}, %")
    legend_below(figure, axes[0].get_legend_handles_labels()[0], columns=3)
    figure.savefig(path, dpi=150)


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
      path: where to save the PNG.
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
            look = dict(color=family.colour)
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
    figure.savefig(path, dpi=150)


FIGURES = {"matrices": save_matrices, "curves": save_curves}
"""What a page of results shows, by the names of the files."""
