"""The table of a stream: what each method keeps, loses and costs."""

import math
import statistics
from typing import Any

import numpy as np

import classp_jax
from examples.datasets.stream import Stream
from examples.report import Rows, accuracy, cell, table
from examples.study import Study
from examples.tables import Found, best, seeds


def matrix(
    study: Study, row: dict[str, Any], *, with_dropout: bool = False
) -> np.ndarray:
    """The accuracy matrix of a run.

    Args:
      study: what was compared.
      row: a row of results.
      with_dropout: whether dropout was left on.

    Returns:
      (phases, tasks), in per cent: behind each phase the accuracy on each task. Square
      unless all tasks were learned in one phase.
    """
    return np.array(
        [
            [
                accuracy(row, task, phase=phase, with_dropout=with_dropout)
                for task in study.tasks
            ]
            for phase in range(len(row["results"]))
        ]
    )


def stream_table(study: Study, found: Found) -> str:
    """A line a method, and one a value of its setting where there are several.

    Args:
      study: what was compared.
      found: the rows.

    Returns:
      The table; the best average accuracy of each method's values in bold.
    """
    lines = []
    for front in study.fronts:
        names = [name for name in front.methods if name in found]
        for name in names:
            of_method = found[name]
            average, *others = (
                cell([of(study, row) for row in of_method], 1)
                for of in (_average, _backward, _forgetting, _forward)
            )
            if len(names) > 1 and name == best(study, front, found):
                average = f"**{average}**"
            kept = max(result["bytes_per_weight"] for result in of_method[0]["results"])
            seconds = [
                sum(result["seconds"] for result in row["results"]) for row in of_method
            ]
            lines.append(
                [
                    front.methods[name].title,
                    average,
                    *others,
                    f"{kept:.2g}",
                    f"{statistics.median(seconds):.0f}",
                    seeds(study, of_method),
                ]
            )
    header = [
        "method",
        "average accuracy",
        "backward transfer",
        "forgetting",
        "forward transfer",
        "bytes a weight",
        "seconds",
        "seeds",
    ]
    return table(header, lines)


def published_table(stream: Stream) -> str:
    """What Avalanche's baselines publish for a stream; empty if they don't."""
    lines = [
        [
            of.method + ", online" * of.online,
            f"{of.measured}",
            f"{of.reference}" if of.reference else "\N{EN DASH}",
        ]
        for of in stream.made_of.published
        if of.scenario == stream.scenario
    ]
    header = ["method", "measured by the baselines", "in the paper they refer to"]
    return table(header, lines) if lines else ""


def mean_matrix(study: Study, of_method: Rows, with_dropout: bool) -> np.ndarray:
    """The mean over the seeds of :func:`matrix`."""
    of_seeds = [matrix(study, row, with_dropout=with_dropout) for row in of_method]
    return np.mean(of_seeds, axis=0)


def _average(study: Study, row: dict[str, Any]) -> float:
    return float(np.mean(matrix(study, row)[-1]))


def _backward(study: Study, row: dict[str, Any]) -> float:
    return _of_square(classp_jax.backward_transfer, study, row)


def _forgetting(study: Study, row: dict[str, Any]) -> float:
    return _of_square(classp_jax.forgetting, study, row)


def _forward(study: Study, row: dict[str, Any]) -> float:
    before = row["results"][0]["untrained"]
    untrained = np.array([100 * before[task]["test"][0] for task in study.tasks])
    return _of_square(lambda r: classp_jax.forward_transfer(r, untrained), study, row)


def _of_square(measure: Any, study: Study, row: dict[str, Any]) -> float:
    accuracies = matrix(study, row)
    rows, columns = accuracies.shape
    return float(measure(accuracies)) if rows == columns else math.nan
