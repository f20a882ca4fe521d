"""The table of a stream: what each method keeps, loses and costs."""

import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from classp_jax import metrics
from examples.datasets.stream import Stream
from examples.report.measures import Rows, accuracy
from examples.report.table import cell, table
from examples.report.tables import Found, best, seeds
from examples.runner.study import Front, Study

LONG = 20
"""Tasks from which on a table says how well the first and the last were learned."""


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
    measures = [m for m in MEASURES if len(study.tasks) >= m.fewest_tasks]
    lines = []
    for front in study.fronts:
        names = [name for name in front.methods if name in found]
        chosen = best(study, front, found) if len(names) > 1 else None
        for name in names:
            title, rows = front.methods[name].title, found[name]
            cells = [measure.cell(study, rows) for measure in measures]
            if name == chosen:
                cells[0] = f"**{cells[0]}**"
            lines.append([title, *cells, seeds(study, rows)])
    header = ["method", *(measure.title for measure in measures), "seeds"]
    return table(header, lines)


def published_table(stream: Stream) -> str:
    """What Avalanche's baselines publish for a stream; empty if they don't."""
    lines = [
        [
            of.method + ", online" * of.online,
            f"{of.measured}",
            f"{of.reference}" if of.reference else "\N{EN DASH}",
        ]
        for of in stream.definition.published
        if of.scenario == stream.scenario
    ]
    header = ["method", "measured by the baselines", "in the paper they refer to"]
    return table(header, lines) if lines else ""


def mean_matrix(study: Study, of_method: Rows, with_dropout: bool) -> np.ndarray:
    """The mean over the seeds of :func:`matrix`."""
    of_seeds = [matrix(study, row, with_dropout=with_dropout) for row in of_method]
    return np.asarray(np.mean(of_seeds, axis=0))


def pair(row: dict[str, Any]) -> tuple[int, int]:
    """What a row of a method is of: the seeds of the stream and of the weights."""
    return row["settings"]["seed"], row["seed"]


def lacks(front: Front, found: Found) -> str:
    """What keeps a front's settings from being compared by their means.

    Args:
      front: the front.
      found: the rows.

    Returns:
      The seeds that some of its settings lack and others have, in words; empty if all
      have the same.
    """
    of_each = {
        name: set(map(pair, found[name])) for name in front.methods if name in found
    }
    every: set[tuple[int, int]] = set().union(*of_each.values())
    return "; ".join(
        f"{front.methods[name].title} lacks "
        + ", ".join(f"--stream-seed {of} --seed {seed}" for of, seed in sorted(missing))
        for name, has in of_each.items()
        if (missing := every - has)
    )


def average(study: Study, row: dict[str, Any]) -> float:
    """The average accuracy: on all tasks after the last, in per cent."""
    return float(np.mean([accuracy(row, task) for task in study.tasks]))


def _forward(study: Study, row: dict[str, Any]) -> float:
    before = row["results"][0]["untrained"]
    untrained = np.array([100 * before[task]["test"][0] for task in study.tasks])
    return _of_square(lambda r: metrics.forward_transfer(r, untrained))(study, row)


def _of_square(
    measure: Callable[[np.ndarray], Any],
) -> Callable[[Study, dict[str, Any]], float]:
    """A measure of accuracy matrices, of those alone that have a phase a task."""

    def of(study: Study, row: dict[str, Any]) -> float:
        accuracies = matrix(study, row)
        phases, tasks = accuracies.shape
        return float(measure(accuracies)) if phases == tasks else math.nan

    return of


learned = _of_square(metrics.learning_accuracy)
"""The accuracy on each task just after it was learned, the mean over tasks, in %."""


class Measure(NamedTuple):
    """A column of the table.

    Attributes:
      title: of the column.
      cell: what it says of a method's rows.
      fewest_tasks: of the streams that have it.
    """

    title: str
    cell: Callable[[Study, Rows], str]
    fewest_tasks: int = 0


def _mean(of: Callable[[Study, dict[str, Any]], float]) -> Callable[[Study, Rows], str]:
    return lambda study, rows: cell([of(study, row) for row in rows], 1)


def _learned(tasks: slice) -> Callable[[Study, Rows], str]:
    return _mean(_of_square(lambda r: metrics.learning_accuracy(r[tasks, tasks])))


def _bytes(study: Study, rows: Rows) -> str:
    del study
    return f"{max(result['bytes_per_weight'] for result in rows[0]['results']):.2g}"


def _seconds(study: Study, rows: Rows) -> str:
    del study
    of_seeds = [sum(result["seconds"] for result in row["results"]) for row in rows]
    return f"{statistics.median(of_seeds):.0f}"


MEASURES = (
    Measure("average accuracy", _mean(average)),
    Measure("backward transfer", _mean(_of_square(metrics.backward_transfer))),
    Measure("forgetting", _mean(_of_square(metrics.forgetting))),
    Measure("forward transfer", _mean(_forward)),
    Measure("learned, first 5", _learned(slice(5)), LONG),
    Measure("learned, last 10", _learned(slice(-10, None)), LONG),
    Measure("bytes a weight", _bytes),
    Measure("seconds", _seconds),
)
"""The columns of the table; the first one is what a setting is chosen by."""
