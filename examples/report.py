"""What the reports of the experiments share: tables, colours, what a row says."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Rows = list[dict[str, Any]]
"""Rows of one method, a seed each, as :func:`examples.rows.select` returns them."""

# Okabe and Ito's, which differ to colour-blind eyes as well.
COLOURS = {
    "SGD": "#0072b2",
    "Adam": "#e69f00",
    "AdaGrad": "#009e73",
    "CLASSP": "#d55e00",
    "EWC": "#cc79a7",
    "Replay": "#56b4e9",
    "SI": "#f0e442",
    "Joint": "#000000",
}


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right.

    Args:
      header: the columns' names.
      lines: the cells of each line.

    Returns:
      The table, without a newline behind it.
    """
    rule = "|---|" + "---:|" * (len(header) - 1)
    head, *rest = (f"| {' | '.join(cells)} |" for cells in (header, *lines))
    return "\n".join([head, rule, *rest])


def cell(values: Iterable[float], digits: int) -> str:
    """The mean of some seeds' values and, behind it, their sample deviation.

    Args:
      values: one a seed.
      digits: behind the decimal point.

    Returns:
      ``"85.0 ± 7.1"``; the mean alone where nothing deviates; an en dash where a value
      is NaN, because it wasn't measured.
    """
    values = np.fromiter(values, float)
    if np.isnan(values).any():
        return "\N{EN DASH}"
    text = f"{values.mean():.{digits}f}"
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{text} ± {deviation:.{digits}f}" if deviation else text


def accuracy(
    row: dict[str, Any],
    task: str,
    split: str = "test",
    *,
    with_dropout: bool = False,
    phase: int = -1,
) -> float:
    """Accuracy behind a phase.

    Args:
      row: a row of results, as :mod:`examples.continual` writes them.
      task: on which task.
      split: on which of its splits.
      with_dropout: whether dropout was left on.
      phase: the index of the phase; the last one by default.

    Returns:
      In per cent; NaN where it wasn't measured.
    """
    measured = row["results"][phase]["accuracy"].get(task, {})
    return 100 * measured[split][with_dropout] if split in measured else math.nan


def learned(
    row: dict[str, Any], task: str, split: str = "test", *, with_dropout: bool = False
) -> float:
    """Accuracy on a task when its last phase ended, in per cent."""
    phase = max(_phases_of(row, task))
    return accuracy(row, task, split, phase=phase, with_dropout=with_dropout)


def forgetting(
    row: dict[str, Any], task: str, split: str = "test", *, with_dropout: bool = False
) -> float:
    """The points of :func:`learned` that were gone at the end."""
    at_first = learned(row, task, split, with_dropout=with_dropout)
    return at_first - accuracy(row, task, split, with_dropout=with_dropout)


def updated(row: dict[str, Any], task: str) -> float:
    """The share of weights that a step on a task moves, on average, in per cent."""
    of_task = [row["results"][i] for i in _phases_of(row, task)]
    steps = [result["curve"]["step"][-1] for result in of_task]
    density = [result["update_density"] for result in of_task]
    return 100 * float(np.average(density, weights=steps))


def curve(
    row: dict[str, Any], task: str, *, with_dropout: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy along training, the phases one behind the other.

    Args:
      row: a row of results.
      task: on which task.
      with_dropout: whether dropout was left on.

    Returns:
      The steps, counted over all phases, and the accuracies at them, in per cent.
    """
    steps, accuracies, start = [], [], 0
    for result in row["results"]:
        points = result["curve"]
        steps += [start + step for step in points["step"]]
        accuracies += [100 * pair[with_dropout] for pair in points["accuracy"][task]]
        start = steps[-1]
    return np.array(steps), np.array(accuracies)


def boundary(row: dict[str, Any], task: str) -> int:
    """The step at which the last phase of a task ended, counted over all phases."""
    phases = row["results"][: max(_phases_of(row, task)) + 1]
    return sum(result["curve"]["step"][-1] for result in phases)


def _phases_of(row: dict[str, Any], task: str) -> list[int]:
    return [i for i, phase in enumerate(row["phases"]) if task in phase["epochs"]]
