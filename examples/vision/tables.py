"""The vision experiment's tables, and the words about its runs."""

import collections
import functools
import math
from collections.abc import Callable
from typing import Any

from examples.report import (
    Rows,
    accuracy,
    cell,
    forgetting,
    learned,
    table,
    updated,
)
from examples.vision.methods import ABLATION, FRONTS, GROUPS, METHODS, PUBLISHED, Front

Found = dict[str, Rows]
"""The rows of each method that has any, by its name."""

TASKS = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}

_CHANCE = 15.0  # Of ten classes, in per cent: a run below has learned nothing.


def paper_table(found: Found) -> str:
    """Table 1 of the paper, beside what the same measure gives here.

    Args:
      found: the rows.

    Returns:
      The table; accuracies on the training sets, dropout left on.
    """
    measure = functools.partial(accuracy, split="train", with_dropout=True)
    lines = []
    for name in GROUPS["paper"]:
        if name in found:
            published = [f"{mean:.2f} ± {dev:.2f}" for mean, dev in PUBLISHED[name]]
            here = _of_tasks(measure, found[name], 2)
            lines.append([METHODS[name].title, *published, *here, seeds(found[name])])
    header = [
        "training algorithm",
        *(f"paper: {title}" for title in TASKS.values()),
        *(f"here: {title}" for title in TASKS.values()),
        "seeds",
    ]
    return table(header, lines)


def measured_table(found: Found) -> str:
    """The paper's rows, the best of each front and joint training, dropout off.

    Args:
      found: the rows.

    Returns:
      The table, with what each method costs.
    """
    titles = {name: METHODS[name].title for name in GROUPS["paper"]}
    for front in FRONTS:
        of_front = [name for name in front.methods if name in found]
        if of_front:
            name = best(front, found)
            titles[name] = f"{METHODS[name].title} (best of {len(of_front)})"
    titles |= {name: METHODS[name].title for name in GROUPS["joint"]}
    lines = [
        [
            title,
            *_of_tasks(functools.partial(accuracy, split="train"), found[name], 1),
            *_of_tasks(accuracy, found[name], 1),
            cell(map(mean_test_accuracy, found[name]), 1),
            cell([forgetting(row, "mnist") for row in found[name]], 1),
            *_of_tasks(updated, found[name], 1),
            f"{found[name][0]['results'][-1]['bytes_per_weight']:.2g}",
            seeds(found[name]),
        ]
        for name, title in titles.items()
        if name in found
    ]
    header = [
        "method",
        "MNIST, training set",
        "Fashion, training set",
        "MNIST, test set",
        "Fashion, test set",
        "mean of test sets",
        "forgetting",
        "updated on MNIST",
        "updated on Fashion",
        "bytes a weight",
        "seeds",
    ]
    return table(header, lines)


def fronts_table(found: Found) -> str:
    """Every point of every front.

    Args:
      found: the rows.

    Returns:
      The table, accuracies on the test sets; the best mean of a front in bold.
    """
    lines = []
    for front in FRONTS:
        for name in [name for name in front.methods if name in found]:
            mean = cell(map(mean_test_accuracy, found[name]), 1)
            bold = f"**{mean}**" if name == best(front, found) else mean
            accuracies = _of_tasks(accuracy, found[name], 1)
            lines.append([METHODS[name].title, *accuracies, bold, seeds(found[name])])
    return table(["method", *TASKS.values(), "mean", "seeds"], lines)


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
            *_of_tasks(accuracy, of_method, 1),
            *_of_tasks(updated, of_method, 2),
            cell(map(_unassigned, of_method), 1),
            seeds(of_method),
        ]
    header = [
        "on the",
        "threshold of g²",
        "collected",
        "MNIST after MNIST",
        *TASKS.values(),
        "updated on MNIST",
        "updated on Fashion",
        "unassigned after MNIST",
        "seeds",
    ]
    return table(header, [[*what, *cells] for what, cells in lines.items()])


def mean_test_accuracy(row: dict[str, Any]) -> float:
    """Of both test sets at the end, in per cent."""
    return sum(accuracy(row, task) for task in TASKS) / len(TASKS)


def best(front: Front, found: Found) -> str:
    """Chooses a front's method by the mean of both test accuracies over the seeds.

    Args:
      front: the front.
      found: the rows, some of them of this front.

    Returns:
      The method's name.
    """

    def over_seeds(name: str) -> float:
        return sum(map(mean_test_accuracy, found[name])) / len(found[name])

    return max((name for name in front.methods if name in found), key=over_seeds)


def fate(row: dict[str, Any]) -> str:
    """What went wrong with a run, in words; empty if nothing did."""
    if not all(result["finite"] for result in row["results"]):
        return "not finite"
    if learned(row, "mnist") < _CHANCE:
        return "learns no MNIST"
    if all(accuracy(row, task) < _CHANCE for task in TASKS):
        return "ends at chance"
    return ""


def seeds(of_method: Rows) -> str:
    """How many seeds there are and what went wrong with how many of them."""
    fates = collections.Counter(filter(None, map(fate, of_method)))
    words = [
        what if count == len(of_method) else f"{count} of them: {what}"
        for what, count in fates.items()
    ]
    return f"{len(of_method)} ({', '.join(words)})" if words else f"{len(of_method)}"


def _of_tasks(
    quantity: Callable[[dict[str, Any], str], float], of_method: Rows, digits: int
) -> list[str]:
    return [cell([quantity(row, task) for row in of_method], digits) for task in TASKS]


def _unassigned(row: dict[str, Any]) -> float:
    """The share of weights that nothing was collected for on MNIST, in per cent."""
    return 100 * row["results"][0].get("unassigned_share", math.nan)
