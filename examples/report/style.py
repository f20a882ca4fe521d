"""How figures look: markers, legends and labels."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.artist import Artist
from matplotlib.figure import Figure

from examples.report.measures import Rows
from examples.runner.plan import Family
from examples.runner.words import count

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
        label: f"{label} ({count(len(rows), 'seed')})"
        for label, (_, rows) in lines.items()
    }


def accuracy_label(split: str, with_dropout: bool) -> str:
    """What an axis shows."""
    word = {"train": "training", "test": "test"}[split]
    return f"{word} accuracy{', dropout on' * with_dropout}, %"
