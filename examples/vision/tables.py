"""The vision experiment's own table: of its ablation."""

import itertools
import math
from typing import Any

from examples.report.measures import accuracy, learned, updated
from examples.report.table import cell, table
from examples.report.tables import Found, of_tasks, seeds
from examples.vision.ablation import ABLATION
from examples.vision.phases import TASKS
from examples.vision.study import STUDY


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
