"""Labels beside points of a figure, each where there is room."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from examples.report.lines import End, wrapped

_SIDES = (
    ((9, 0), "left", "center"),
    ((-9, 0), "right", "center"),
    ((0, 9), "center", "bottom"),
    ((0, -9), "center", "top"),
    ((6, 6), "left", "bottom"),
    ((6, -6), "left", "top"),
    ((-6, 6), "right", "bottom"),
    ((-6, -6), "right", "top"),
)
_MARGIN = 3.0  # Pixels, so that markers are seen too.
_WORSE = 10**6  # To hide a label, or to leave the axes, than any line.
_SAMPLES = 50  # Of a line between two of its points.


def label_points(ax: Axes, labels: Sequence[Sequence[End]], size: float) -> None:
    """Writes labels beside points, where they hide the least of lines and labels.

    Call it last: the axes' limits, and the figure's size, have to be final.

    Args:
      ax: has the lines.
      labels: the places that each may have, one of which it gets.
      size: of the letters, in points.
    """
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    canvas: Any = FigureCanvasAgg(figure)
    renderer = canvas.get_renderer()
    figure.draw_without_rendering()  # Only now the axes have their place.
    taken = [text.get_window_extent(renderer) for text in ax.texts]
    drawn = _samples(ax)
    for places in labels:
        tried = []
        for end, (shift, side, above) in itertools.product(places, _SIDES):
            note = ax.annotate(
                wrapped(end.label),
                (end.x, end.y),
                shift,
                textcoords="offset points",
                ha=side,
                va=above,
                color=end.colour,
                fontsize=size,
            )
            box = note.get_window_extent(renderer)
            hidden = box.padded(_MARGIN).count_contains(drawn)
            hidden += _WORSE * box.count_overlaps(taken)
            inside = Bbox.intersection(box, ax.bbox)
            if inside is None or not np.allclose(inside.extents, box.extents):
                hidden += _WORSE
            tried.append((hidden, note, box))
        _, best, box = min(tried, key=lambda one: one[0])
        taken.append(box)
        for _, note, _ in tried:
            if note is not best:
                note.remove()


def _samples(ax: Axes) -> np.ndarray:
    """Points along all lines and bars, in pixels."""
    lines: list[Any] = [line.get_xydata() for line in ax.lines]
    for bars in ax.collections:
        if isinstance(bars, LineCollection):
            lines += bars.get_segments()
    sampled = [np.empty((0, 2))]
    for line in lines:
        points = ax.transData.transform(line)
        every = np.arange(len(points))
        along = np.linspace(0, len(points) - 1, _SAMPLES * len(points))
        x, y = (np.interp(along, every, of) for of in points.T)
        sampled.append(np.stack([x, y], 1))
    return np.concatenate(sampled)
