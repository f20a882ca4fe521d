"""The tables that the experiments share, and the words about their runs."""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from examples.report.measures import Rows, accuracy, forgetting, learned, updated
from examples.report.table import cell, table
from examples.runner.study import SPLIT_TITLES, Front, Study

_MOST_PRINTED = 20  # Methods, each with all of its settings.
Found = dict[str, Rows]
"""The rows of each method that has any, by its name."""


def paper_table(study: Study, found: Found) -> str:
    """The paper's table, beside what the same measure gives here.

    Args:
      study: what was compared.
      found: the rows.

    Returns:
      The table; accuracies on the training sets, dropout left on.
    """
    as_there: dict[str, Any] = dict(split="train", with_dropout=True)
    measure = functools.partial(accuracy, **as_there)
    first, lines = study.first, []
    titles = {name: method.title for name, method in study.groups["paper"].items()}
    for name, title, rows in _and_without_what_went_wrong(study, titles, found):
        published = [f"{m:.2f} ± {dev:.2f}" for m, dev in study.published[name]]
        here = of_tasks(study, measure, rows, 2)
        before_and_lost = [
            cell([of(row, first, **as_there) for row in rows], 2)
            for of in (learned, forgetting)
        ]
        lines.append([title, *published, *here, *before_and_lost, seeds(study, rows)])
    header = [
        "training algorithm",
        *(f"paper: {title}" for title in study.tasks.values()),
        *(f"here: {title}" for title in study.tasks.values()),
        f"{study.tasks[first]} at first",
        "forgetting",
        "seeds",
    ]
    return table(header, lines)


def measured_table(study: Study, found: Found) -> str:
    """The paper's rows, the best of each front and joint training, dropout off.

    Args:
      study: what was compared.
      found: the rows.

    Returns:
      The table, with what each method costs.
    """
    methods = study.methods
    titles = {name: methods[name].title for name in study.groups["paper"]}
    for front in study.fronts:
        of_front = [name for name in front.methods if name in found]
        if of_front:
            name = best(study, front, found)
            titles[name] = f"{methods[name].title} (best of {len(of_front)})"
    titles |= {name: methods[name].title for name in study.groups["joint"]}
    splits = {
        split: [t for t in study.tasks if split in ("train", study.judged_on[t])]
        for split in ("train", "test")
    }
    lines = [
        [
            title,
            *(
                cell([accuracy(row, task, split) for row in rows], 1)
                for split, tasks in splits.items()
                for task in tasks
            ),
            cell([judged(study, row) for row in rows], 1),
            cell([forgotten(study, row) for row in rows], 1),
            *of_tasks(study, updated, rows, 1),
            f"{rows[0]['results'][-1]['bytes_per_weight']:.2g}",
            seeds(study, rows),
        ]
        for _, title, rows in _and_without_what_went_wrong(study, titles, found)
    ]
    header = [
        "method",
        *(
            f"{study.tasks[task]}, {SPLIT_TITLES[split]}"
            for split, tasks in splits.items()
            for task in tasks
        ),
        "mean",
        "forgetting",
        *(f"updated on {title}" for title in study.tasks.values()),
        "bytes a weight",
        "seeds",
    ]
    return table(header, lines)


def to_print(study: Study, found: Found, names: Iterable[str] | None) -> Found:
    """The rows of which a command prints a table.

    Args:
      study: what was compared.
      found: all rows.
      names: of the methods; None for all.

    Returns:
      The rows of these methods; of more than fit a screen, each front's best alone.
    """
    of = {name: found[name] for name in names or found if name in found}
    if len(of) <= _MOST_PRINTED:
        return of
    fronts = [front for front in study.fronts if of.keys() & front.methods.keys()]
    kept = {best(study, front, of) for front in fronts}
    for group in ("paper", "joint"):
        kept |= study.groups.get(group, {}).keys()
    return {name: of_method for name, of_method in of.items() if name in kept}


def of_run(study: Study, found: Found) -> list[str]:
    """What a run shows: its methods, and where it has several of a front, each."""
    several = any(len(found.keys() & f.methods.keys()) > 1 for f in study.fronts)
    fronts = [fronts_table(study, found)] if several else []
    return [measured_table(study, found), *fronts]


def _and_without_what_went_wrong(
    study: Study, titles: dict[str, str], found: Found
) -> Iterator[tuple[str, str, Rows]]:
    """Each method's name, title and rows; where some went wrong, the others as well."""
    for name, title in titles.items():
        if name in found:
            yield name, title, found[name]
            well = went_well(study, found[name])
            if 0 < len(well) < len(found[name]):
                yield name, f"{title}, the others", well


def fronts_table(study: Study, found: Found) -> str:
    """Every point of every front.

    Args:
      study: what was compared.
      found: the rows.

    Returns:
      The table, accuracies on what the study judges by; the best mean of a front in
      bold.
    """
    lines = []
    for front in study.fronts:
        of_front = [name for name in front.methods if name in found]
        best_of_front = best(study, front, found) if of_front else None
        for name in of_front:
            mean = cell([judged(study, row) for row in found[name]], 1)
            bold = f"**{mean}**" if name == best_of_front else mean
            accuracies = [
                cell([accuracy(row, task, split) for row in found[name]], 1)
                for task, split in study.judged_on.items()
            ]
            title = front.methods[name].title
            lines.append([title, *accuracies, bold, seeds(study, found[name])])
    return table(["method", *study.tasks.values(), "mean", "seeds"], lines)


def judged(study: Study, row: dict[str, Any]) -> float:
    """The mean of both tasks' accuracies at the end, in per cent."""
    of = [accuracy(row, task, split) for task, split in study.judged_on.items()]
    return sum(of) / len(of)


def forgotten(study: Study, row: dict[str, Any]) -> float:
    """The points of accuracy on the first task lost since its last epoch."""
    return forgetting(row, study.first, study.judged_on[study.first])


def best(study: Study, front: Front, found: Found) -> str:
    """Chooses a front's method by the mean of both accuracies over the seeds.

    Args:
      study: what was compared.
      front: the front.
      found: the rows, some of them of this front.

    Returns:
      The method's name.
    """

    def over_seeds(name: str) -> float:
        return sum(judged(study, row) for row in found[name]) / len(found[name])

    return max((name for name in front.methods if name in found), key=over_seeds)


def fate(study: Study, row: dict[str, Any]) -> str:
    """What went wrong with a run, in words; empty if nothing did."""
    if not all(result["finite"] for result in row["results"]):
        return "not finite"
    first, split = study.first, study.judged_on[study.first]
    if learned(row, first, split) < study.nothing[first]:
        return f"learns no {study.tasks[first]}"
    if all(
        accuracy(row, task, split) < study.nothing[task]
        for task, split in study.judged_on.items()
    ):
        return "ends at chance"
    if row["results"][-1].get("is_open") is False:
        return "its gate never opens"
    return ""


def went_well(study: Study, of_method: Rows) -> Rows:
    """The runs with which nothing went wrong."""
    return [row for row in of_method if not fate(study, row)]


def seeds(study: Study, of_method: Rows) -> str:
    """How many seeds there are and what went wrong with how many of them."""
    fates = [fate(study, row) for row in of_method]
    words = [
        what if count == len(of_method) else f"{count} of them: {what}"
        for what, count in collections.Counter(filter(None, fates)).items()
    ]
    return f"{len(of_method)} ({', '.join(words)})" if words else f"{len(of_method)}"


def of_tasks(
    study: Study,
    quantity: Callable[[dict[str, Any], str], float],
    of_method: Rows,
    digits: int,
) -> list[str]:
    """A cell a task."""
    return [
        cell([quantity(row, task) for row in of_method], digits) for task in study.tasks
    ]
