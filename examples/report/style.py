"""How figures look: a family's colour, lines, markers, legends and labels."""

import collections
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from matplotlib.artist import Artist
from matplotlib.figure import Figure

from examples.report.measures import Rows
from examples.runner.plan import Family

# What Matplotlib has names for, then more dots in a dash.
_LINES = ("-", "--", ":", "-.", *((0, (5, 1) + (1, 1) * n) for n in (2, 3, 4)))
MARKERS = "o^sDvPXp<>"  # Of another number, so that the pairs differ for long.


class Line(NamedTuple):
    """A line of a figure.

    Attributes:
      family: whose colour it has.
      rows: that it shows.
    """

    family: Family
    rows: Rows


Lines = dict[str, Line]
"""The lines of a figure, by their labels."""


def styles(families: Iterable[Family]) -> list[dict[str, Any]]:
    """A colour for each family of methods, another line and marker for each in it."""
    styles: list[dict[str, Any]] = []
    seen: collections.Counter[Family] = collections.Counter()
    for family in families:
        number = seen[family]
        styles.append(
            {
                "color": family.colour,
                "ls": _LINES[number % len(_LINES)],
                "lw": family.width,
                "marker": MARKERS[number % len(MARKERS)],
                "ms": 6,
                "markevery": 0.1,
            }
        )
        seen[family] += 1
    return styles


def legend_below(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    """Puts a legend under a figure's axes."""
    figure.legend(
        handles=handles,
        loc="outside lower center",
        handlelength=4,
        ncols=columns,
        fontsize="small",
        frameon=False,
    )


def with_seeds(lines: Lines) -> dict[str, str]:
    """What to call each line: with how many seeds it has, where they have not as many.

    By their labels.
    """
    counts = {len(rows) for _, rows in lines.values()}
    if len(counts) == 1:
        return {label: label for label in lines}
    return {
        label: f"{label} ({len(rows)} seed{'s' * (len(rows) > 1)})"
        for label, (_, rows) in lines.items()
    }


def accuracy_label(split: str, with_dropout: bool) -> str:
    """What an axis shows."""
    word = {"train": "training", "test": "test"}[split]
    return f"{word} accuracy{', dropout on' * with_dropout}, %"
