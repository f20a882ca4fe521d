"""What a row says: accuracies, what was learned and lost, what was updated."""

import math
from typing import Any

import numpy as np

Rows = list[dict[str, Any]]
"""Rows of one method, a seed each, from :func:`examples.runner.rows.select`."""


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
      row: a row of results, as :mod:`examples.runner.run` writes them.
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


def mean_deviation(
    rows: Rows, task: str, split: str, with_dropout: bool
) -> tuple[float, float]:
    """Of the accuracies at the end, in per cent."""
    of_seeds = [accuracy(row, task, split, with_dropout=with_dropout) for row in rows]
    return float(np.mean(of_seeds)), float(deviation(np.array(of_seeds)))


def deviation(of_seeds: np.ndarray) -> np.ndarray:
    """The sample deviation over the first axis; 0 of a single seed."""
    return np.asarray(of_seeds.std(0, ddof=1) if len(of_seeds) > 1 else 0 * of_seeds[0])
