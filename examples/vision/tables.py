"""The vision experiment's own tables: of its ablation, and a summary."""

import itertools
import math
from typing import Any

from examples.report.measures import accuracy, learned, updated
from examples.report.table import cell, table
from examples.report.tables import Found, of_tasks, seeds
from examples.vision.ablation import ABLATION
from examples.vision.phases import TASKS
from examples.vision.study import STUDY

SUMMARY = (
    "classp_rate_0.2",
    "classp_second_relative_10",
    "classp_second_0.0001",
    "classp_factored_rate_0.2",
    "classp_factored_second_relative_10",
    "gram_64_0.1",
    "gram_64_1",
    "gram_64_10",
    "ewc_1000",
    "ewc_10000",
    "ewc_rate_0.05_1000",
    "replay_0.01",
    "replay_0.001",
    "adam_rate_0.0001",
    "adagrad_rate_0.002",
    "sgd_rate_0.005",
    "joint",
)
"""The methods of :func:`summary_table`."""
_PIVOT = (0.1, 1, 3, 10)  # The thresholds of the second table, in units of mean(g²).


def summary_table(found: Found) -> str:
    """What some of the methods keep, learn and cost.

    Args:
      found: the rows, those of :data:`SUMMARY` among them.

    Returns:
      The table, accuracies on the test sets.
    """
    lines = [
        [
            STUDY.methods[name].title,
            *of_tasks(STUDY, accuracy, found[name], 1),
            f"{found[name][0]['results'][-1]['bytes_per_weight']:.2g}",
            seeds(STUDY, found[name]),
        ]
        for name in SUMMARY
    ]
    header = ["method", *TASKS.values(), "bytes a weight", "seeds"]
    return table(header, lines)


def threshold_table(found: Found) -> str:
    """The ablation's relative thresholds: by task and sum, and by their values.

    Args:
      found: the rows, from :func:`of_common_seeds`.

    Returns:
      The table, both test sets' accuracies a cell, an en dash where there are no rows.
    """
    titles = {"first": "the first task", "both": "both", "second": "the second task"}
    lines = []
    for where, title in titles.items():
        for all_ in (True, False):
            points = {
                ABLATION[name].threshold: " / ".join(of_tasks(STUDY, accuracy, rows, 1))
                for name, rows in found.items()
                if ABLATION[name][:3] == (where, True, all_)
            }
            cells = [points.get(value, "\N{EN DASH}") for value in _PIVOT]
            sums = "all gradients" if all_ else "those that pass"
            lines.append([title, sums, *cells])
    header = ["θ on", "the sum is of", *(f"θ {value:g}" for value in _PIVOT)]
    return table(header, lines)


def ablation_table(found: Found) -> str:
    """Every point of the ablation, one line for what is the same without a threshold.

    Args:
      found: the rows.

    Returns:
      The table, accuracies on the test sets.
    """
    lines = {}
    for name in [name for name in ABLATION if name in found]:
        ablation, of_method = ABLATION[name], found[name]
        what = (
            f"{ablation.where} task{'s' * (ablation.where == 'both')}",
            f"{ablation.threshold:g}{'·mean(g²)' * ablation.relative}",
            "all" if ablation.collecting_all or not ablation.threshold else "above it",
        )
        lines[what] = [
            cell([learned(row, "mnist") for row in of_method], 1),
            *of_tasks(STUDY, accuracy, of_method, 1),
            *of_tasks(STUDY, updated, of_method, 2),
            cell(map(_unassigned, of_method), 1),
            seeds(STUDY, of_method),
        ]
    header = [
        "on the",
        "threshold of g²",
        "collected",
        "MNIST after MNIST",
        *TASKS.values(),
        "updated on MNIST",
        "updated on Fashion-MNIST",
        "unassigned after MNIST",
        "seeds",
    ]
    return table(header, [[*what, *cells] for what, cells in lines.items()])


def of_common_seeds(found: Found) -> Found:
    """What compares the ablation's points seed by seed.

    Args:
      found: the rows.

    Returns:
      The ablation's points, those on the same task and in the same unit of the same
      seeds: of those that all of them have, or of all where there is none.
    """
    paired: Found = {}
    names = [name for name in ABLATION if name in found]
    for _, of_kind in itertools.groupby(names, lambda name: ABLATION[name][:2]):
        points = {name: found[name] for name in of_kind}
        of_each = [{row["seed"] for row in rows} for rows in points.values()]
        common = set.intersection(*of_each)
        for name, rows in points.items():
            paired[name] = [row for row in rows if row["seed"] in common] or rows
    return paired


def _unassigned(row: dict[str, Any]) -> float:
    """The share of weights that nothing was collected for on MNIST, in per cent."""
    return 100 * float(row["results"][0].get("unassigned_share", math.nan))
