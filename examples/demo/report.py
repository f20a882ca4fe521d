"""The demo's table and picture."""

import pathlib
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from classp_jax import metrics
from examples.report.lines import End, label_ends, looks, open_frame, save
from examples.report.table import cell, table
from examples.runner.plan import Method
from examples.runner.rows import device
from examples.streams.figures import draw_along


class Learned(NamedTuple):
    """What a method has learned.

    Attributes:
      label: what to call it.
      method: with its settings.
      accuracies: (seeds, tasks, tasks), in per cent: after each task (rows) on each.
      bytes_per_weight: of the optimizer's state.
      seconds: of all seeds, compilation included.
    """

    label: str
    method: Method
    accuracies: np.ndarray
    bytes_per_weight: float
    seconds: float


def write(learned: list[Learned], caption: str, path: pathlib.Path) -> None:
    """Writes the table with its caption.

    Args:
      learned: a line each.
      caption: what the table doesn't say.
      path: of the file of Markdown.
    """
    header = (
        "method",
        "average accuracy",
        "first task, just learned",
        "first task, at the end",
        "forgetting",
        "bytes per weight",
        "seconds",
    )
    lines = []
    for label, _, accuracies, bytes_per_weight, seconds in learned:
        columns = (
            accuracies[:, -1].mean(-1),
            accuracies[:, 0, 0],
            accuracies[:, -1, 0],
            np.array([metrics.forgetting(of_seed) for of_seed in accuracies]),
        )
        cells = [cell(column, 1) for column in columns]
        lines.append([label, *cells, f"{bytes_per_weight:.1f}", f"{seconds:.0f}"])
    settings = "; ".join(of.method.title for of in learned)
    text = (
        f"{table(header, lines)}\n\n{caption} Settings: {settings}. Made on {device()},"
        f" JAX {jax.__version__}.\n"
    )
    path.write_text(text)


def save_figure(learned: list[Learned], path: pathlib.Path) -> None:
    """Draws the accuracy on the first task, and on all so far, after each task.

    Args:
      learned: a line each; several seeds make a mean and a band.
      path: where to save the PNG; an SVG comes beside it.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    steps = np.arange(1, learned[0].accuracies.shape[-1] + 1)
    ends: tuple[list[End], list[End]] = [], []
    of_lines = looks([of.method.family for of in learned])
    for of, look in zip(learned, of_lines, strict=True):
        drawn = draw_along(axes[1], axes[0], of.accuracies, of.label, look)
        for ends_of, end in zip(ends[::-1], drawn, strict=True):
            ends_of.append(end)
    titles = "The first task", "All tasks so far, on average"
    for ax, title in zip(axes, titles, strict=True):
        ax.set(title=title, xlabel="after task", xticks=steps)
        open_frame(ax)
    axes[0].set_ylabel("held-out accuracy, %")
    axes[0].set_ylim(*axes[0].get_ylim())
    for ax, ends_of in zip(axes, ends, strict=True):
        label_ends(ax, ends_of)
    save(figure, path)
