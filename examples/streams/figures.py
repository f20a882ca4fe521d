"""The figures of a stream: its accuracy matrices, and what is kept along it."""

import pathlib
import textwrap

import numpy as np
from matplotlib.figure import Figure

from examples.report.measures import deviation
from examples.report.style import Lines, legend_below, styles
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


FIGURES = {"matrices": save_matrices, "curves": save_curves}
"""What a page of results shows, by the names of the files."""
