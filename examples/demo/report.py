"""The demo's table and figure."""

import pathlib

import numpy as np
from matplotlib.figure import Figure

from examples.demo.run import Run
from examples.report.style import styles
from examples.report.table import cell
from examples.report.table import table as markdown
from examples.runner.plan import Family


def table(runs: dict[str, list[Run]]) -> str:
    """A Markdown table with one row a label, accuracies in per cent.

    Args:
      runs: the runs, one a seed, behind each row's label; several make a mean and,
        behind it, the standard deviation.

    Returns:
      The table; the rows as they came.
    """
    header = [
        "optimizer",
        "A after A",
        "A after B",
        "B after B",
        "mean A, B",
        "forgetting",
        "seconds",
        "bytes a weight",
    ]
    lines = []
    for label, of_label in runs.items():
        final = np.array([run.accuracy[-1] for run in of_label])
        a_after_a = np.array([run.a_after_a for run in of_label])
        columns = [a_after_a, *final.T, final.mean(1), a_after_a - final[:, 0]]
        accuracies = [cell(100 * column, 1) for column in columns]
        seconds = cell([run.seconds for run in of_label], 0)
        state = cell([run.bytes_per_weight for run in of_label], 1)
        lines.append([label, *accuracies, seconds, state])
    return markdown(header, lines)


def save_figure(
    runs: dict[str, list[Run]], families: dict[str, Family], path: pathlib.Path
) -> None:
    """Draws the accuracy on both tasks along training, a line a label.

    Args:
      runs: as for :func:`table`; several seeds make their mean.
      families: of the labels, by whose colours they are drawn.
      path: where to save the PNG.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    looks = styles(families[label] for label in runs)
    for (label, of_label), look in zip(runs.items(), looks, strict=True):
        accuracy = 100 * np.mean([run.accuracy for run in of_label], axis=0)
        line = look | {"marker": ""}
        for task, ax in enumerate(axes):
            ax.plot(of_label[0].steps, accuracy[:, task], label=label, **line)
    boundary = next(iter(runs.values()))[0].task_b_start
    # Where the methods differ: a little below the worst of them at the end.
    worst = min(run.accuracy[-1].min() for of in runs.values() for run in of)
    bottom = max(0, 10 * int(10 * worst) - 20)
    titles = ("Task A: digits", "Task B: the same digits, pixels permuted")
    for ax, title in zip(axes, titles, strict=True):
        ax.axvline(boundary, color="0.5", ls=":", lw=1)
        ax.set(title=title, xlabel="step (dotted: task B begins)", ylim=(bottom, 100))
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("held-out accuracy, %")
    axes[1].legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=150)
