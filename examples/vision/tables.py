"""The vision experiment's own table: of its ablation."""

import math
from typing import Any

from examples.report import accuracy, cell, learned, table, updated
from examples.tables import Found, of_tasks, seeds
from examples.vision.methods import ABLATION, STUDY, TASKS


def ablation_table(found: Found) -> str:
    """Every point of the ablation; what all are without a threshold, once.

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
            "all" if ablation.collecting_all else "above it",
        )
        lines[what if ablation.threshold else ("\N{EN DASH}", "0", "all")] = [
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


def of_common_seeds(found: Found) -> tuple[Found, list[int]]:
    """What compares methods seed by seed.

    Args:
      found: the rows.

    Returns:
      The rows of those seeds that every method has, or all rows where there is none,
      and those seeds.
    """
    of_each = [{row["seed"] for row in of_method} for of_method in found.values()]
    common = set.intersection(*of_each)
    paired = {
        name: [row for row in of_method if row["seed"] in common] or of_method
        for name, of_method in found.items()
    }
    return paired, sorted(common)


def _unassigned(row: dict[str, Any]) -> float:
    """The share of weights that nothing was collected for on MNIST, in per cent."""
    return 100 * row["results"][0].get("unassigned_share", math.nan)
