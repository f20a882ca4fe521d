"""Lines labelled at their ends, bands for the spread, and saved figures."""

import pathlib
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.report.measures import deviation
from examples.runner.plan import Family

GREY = "#767676"
"""Of the lines of others' methods, and of what belongs to no method."""
_DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
_LABEL_SIZE = 9.0  # Points.


class End(NamedTuple):
    """Where a line ends.

    Attributes:
      x: there, in data.
      y: likewise.
      label: of the line; a long one is wrapped.
      colour: of the label.
    """

    x: float
    y: float
    label: str
    colour: str


def looks(families: Sequence[Family]) -> list[dict[str, Any]]:
    """How lines look: ours in their families' colours, others in grey.

    Lines of one colour differ in their dashes.
    """
    made: list[dict[str, Any]] = []
    for family in families:
        colour = family.colour if family.ours else GREY
        before = sum(look["color"] == colour for look in made)
        dashes = _DASHES[before % len(_DASHES)]
        order = 3 if family.ours else 2
        made.append(dict(color=colour, ls=dashes, lw=family.width, zorder=order))
    return made


def band(
    ax: Axes, x: np.ndarray, mean: np.ndarray, spread: np.ndarray, colour: str
) -> None:
    """Draws a spread to both sides of a line, where there is any."""
    if np.any(spread > 0):
        low, high = mean - spread, mean + spread
        ax.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def draw_mean(
    ax: Axes, x: np.ndarray, of_seeds: np.ndarray, label: str, look: dict[str, Any]
) -> End:
    """Draws the seeds' mean as a line, and their spread as a band.

    Args:
      ax: where to.
      x: (points,).
      of_seeds: (seeds, points).
      label: of the line.
      look: one of :func:`looks`.

    Returns:
      Where the line ends.
    """
    mean, colour = of_seeds.mean(0), look["color"]
    ax.plot(x, mean, **look)
    band(ax, x, mean, deviation(of_seeds), colour)
    return End(x[-1], float(mean[-1]), label, colour)


def open_frame(ax: Axes) -> None:
    """Gives axes a faint grid and no frame above and right of it."""
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)


def point_to_better(
    ax: Axes, corner: tuple[float, float], start: tuple[float, float]
) -> None:
    """Draws an arrow to the good corner, from a word; both as parts of the axes."""
    ax.annotate(
        "better",
        corner,
        start,
        xycoords="axes fraction",
        textcoords="axes fraction",
        arrowprops=dict(arrowstyle="->", color="black"),
    )


def wrapped(label: str, width: int = 26) -> str:
    """A label on as many lines as it needs, no number parted from its name."""
    return textwrap.fill(re.sub(r" (?=\d|seed)", "\N{NO-BREAK SPACE}", label), width)


def label_ends(ax: Axes, ends: Sequence[End], *, column: bool = False) -> None:
    """Writes each line's label beside its end, moved up or down until none overlap.

    Call it last: the axes' limits, and the figure's size, have to be final.

    Args:
      ax: has the lines.
      ends: of the lines.
      column: whether the labels stand in one, right of the axes, wherever lines end.
    """
    low, high = ax.get_ylim()
    across, beside = ("axes fraction", 1.04) if column else ("offset points", 8.0)
    arrow: dict[str, Any] = dict(arrowstyle="-", lw=0.6, shrinkA=0, shrinkB=0)
    notes = [
        ax.annotate(
            wrapped(end.label),
            (end.x, min(max(end.y, low), high)),
            (beside, 0),
            textcoords=(across, "offset points"),
            color=end.colour,
            fontsize=_LABEL_SIZE,
            va="center",
            annotation_clip=False,
            arrowprops=arrow | dict(color=end.colour, relpos=(0, 0.5)),
        )
        for end in ends
    ]
    figure = ax.get_figure(root=True)
    assert figure is not None
    points = 72 / figure.dpi
    heights = [1.2 * _LABEL_SIZE * (1 + n.get_text().count("\n")) for n in notes]
    figure.draw_without_rendering()  # Only now the axes have their place.
    at = np.array([ax.transData.transform(note.xy)[1] for note in notes]) * points
    moved = apart(at, np.array(heights) + 1)
    for note, shift in zip(notes, moved - at, strict=True):
        note.xyann = (beside, shift)


def apart(places: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Moves labels as little as it takes until none overlaps another.

    Args:
      places: the middles of the labels.
      heights: of the labels.

    Returns:
      New middles, in the same order from the lowest to the highest.
    """
    order = np.argsort(places, kind="stable")
    middles = np.cumsum(heights[order]) - heights[order] / 2
    # What is left of a place beside stacked labels must not fall: pool what does.
    blocks: list[list[float]] = []
    for rest in places[order] - middles:
        blocks.append([rest])
        while len(blocks) > 1 and np.mean(blocks[-2]) >= np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    pooled = np.concatenate([[np.mean(block)] * len(block) for block in blocks])
    moved = np.empty_like(places, float)
    moved[order] = pooled + middles
    return moved


def save(figure: Figure, path: pathlib.Path) -> None:
    """Saves a figure as PNG and, beside it, as SVG: the same bytes each time."""
    with matplotlib.rc_context({"svg.hashsalt": "classp_jax"}):
        figure.savefig(path, dpi=150, metadata={"Software": None})
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
