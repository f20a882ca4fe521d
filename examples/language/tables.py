"""What a row of the language experiment says: bits kept, learned, lost for a time."""

import math
import statistics
from typing import Any

import numpy as np

from examples.report.measures import Rows
from examples.report.table import cell, table
from examples.report.tables import Found
from examples.runner.study import Front, Study

Row = dict[str, Any]


def bits(row: Row, text: str, phase: int = -1) -> float:
    """Bits a byte that the model takes for a held-out text.

    Args:
      row: a row of results.
      text: the text's name.
      phase: the index of the phase behind which it was measured.

    Returns:
      The bits; 8 for a model that knows nothing.
    """
    return float(row["results"][phase]["bits"][text]["test"][0])


def kept(row: Row) -> float:
    """Bits of the first text in the end."""
    return bits(row, _texts(row)[0])


def learned(row: Row) -> float:
    """Bits of each later text just after it was learned, the mean."""
    _, *later = _texts(row)
    phases = range(1, 1 + len(later)) if len(row["results"]) > 1 else [-1] * len(later)
    of_each = [bits(row, text, at) for text, at in zip(later, phases, strict=True)]
    return float(statistics.mean(of_each))


def both(row: Row) -> float:
    """The mean of :func:`kept` and :func:`learned`, by which settings are chosen."""
    return (kept(row) + learned(row)) / 2


def average(row: Row) -> float:
    """Bits of all texts in the end, the mean."""
    return float(statistics.mean(bits(row, text) for text in _texts(row)))


def gap(row: Row) -> float:
    """By how much the first text's bits rose at worst while the second was learned.

    Above what they were before; NaN where all texts are learned at once.
    """
    if len(row["results"]) == 1:
        return math.nan
    first, *_ = _texts(row)
    along = [pair[0] for pair in row["results"][1]["curve"]["bits"][first]]
    return float(max(along) - along[0])


def bytes_per_weight(row: Row) -> float:
    """Of the optimizer's state and the windows kept, in the last phase."""
    return float(row["results"][-1]["bytes_per_weight"])


def bytes_per_second(row: Row) -> float:
    """Of text, in the last phase, the passes at boundaries not counted in."""
    last, settings = row["results"][-1], row["settings"]
    windows = last["curve"]["step"][-1] * settings["batch_size"]
    return float(windows * settings["context"] / last["seconds"])


def best(front: Front, found: Found) -> str:
    """The method of a front with the least mean of bits kept and learned.

    Args:
      front: the front.
      found: the rows, some of them of this front.

    Returns:
      The method's name; a run that isn't finite is never best.
    """

    def over_seeds(name: str) -> float:
        mean = float(np.mean([both(row) for row in found[name]]))
        return mean if math.isfinite(mean) else math.inf

    return min((name for name in front.methods if name in found), key=over_seeds)


def methods_table(study: Study, found: Found) -> str:
    """A line a method and value of its setting.

    Args:
      study: what was compared.
      found: the rows.

    Returns:
      The table; the least mean of each method's values in bold.
    """
    lines = []
    for front in study.fronts:
        names = [name for name in front.methods if name in found]
        chosen = best(front, found) if len(names) > 1 else ""
        lines += [
            _line(study, name, found[name], bold=name == chosen) for name in names
        ]
    swept = {name for front in study.fronts for name in front.methods}
    lines += [_line(study, n, found[n]) for n in found if n not in swept]
    header = ["method", "kept", "learned", "mean", *_at_end(study), "average"]
    return table([*header, "worst rise", "bytes a weight", "KB/s", "seeds"], lines)


def phases_table(study: Study, found: Found) -> str:
    """Bits on every text behind every phase, of the best value of each setting.

    Args:
      study: what was compared.
      found: the rows.

    Returns:
      The table.
    """
    names = [
        best(front, found)
        for front in study.fronts
        if found.keys() & front.methods.keys()
    ]
    lines = [
        [
            study.methods[name].title,
            *(
                cell([bits(row, text, phase) for row in found[name]], 3)
                for phase in range(len(study.tasks))
                for text in study.tasks
            ),
        ]
        for name in names
    ]
    header = [f"{text} after {after}" for after in study.tasks for text in study.tasks]
    return table(["method", *header], lines)


def _at_end(study: Study) -> list[str]:
    return [f"{title} in the end" for title in study.tasks.values()]


def _line(study: Study, name: str, rows: Rows, *, bold: bool = False) -> list[str]:
    mean = cell(map(both, rows), 3)
    return [
        study.methods[name].title,
        cell(map(kept, rows), 3),
        cell(map(learned, rows), 3),
        f"**{mean}**" if bold else mean,
        *(cell([bits(row, text) for row in rows], 3) for text in study.tasks),
        cell(map(average, rows), 3),
        cell(map(gap, rows), 3),
        f"{bytes_per_weight(rows[0]):.2g}",
        f"{statistics.median(map(bytes_per_second, rows)) / 1000:.1f}",
        f"{len(rows)}",
    ]


def _texts(row: Row) -> list[str]:
    return list(row["settings"]["examples"])
