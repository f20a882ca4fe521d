"""The figure of the language experiment: what is kept against what is learned."""

import pathlib
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.language.tables import best, both, kept, learned
from examples.report.lines import End, open_frame, point_to_better, save
from examples.report.measures import deviation
from examples.report.places import label_points
from examples.report.style import MARKERS
from examples.report.tables import Found
from examples.runner.study import Front, Study

_SEEN = 0.4  # Bits beyond the methods' best settings: what lies further isn't drawn.


def save_fronts(study: Study, found: Found, path: pathlib.Path) -> None:
    """Draws bits of the first text in the end against those of later ones when learned.

    Of each family the front with the best setting is drawn. Where no front has two
    settings there is none to draw, and no file.

    Args:
      study: what was compared.
      found: the rows.
      path: where to save the PNG; an SVG comes beside it.
    """
    fronts = _chosen(study, found)
    if all(len(found.keys() & front.methods.keys()) < 2 for front in fronts):
        return
    figure = Figure(figsize=(8.5, 6), layout="constrained")
    ax = figure.subplots()
    first, *later = study.tasks.values()
    ax.set(
        xlabel=f"learned: bits a byte of {' and '.join(later)}, just after each",
        ylabel=f"kept: bits a byte of {first} in the end",
        title=f"What is kept of {first}, and learned of {' and '.join(later)}",
    )
    titles, bests = [], []
    for i, front in enumerate(fronts):
        title, at_best = _draw(ax, front, found, MARKERS[i % len(MARKERS)])
        titles.append(title)
        bests.append(at_best)
    if joint := found.get("joint"):
        mean, _ = _mean(joint)
        ax.plot(*mean, "*", color="black", ms=12, zorder=4)
        titles.append([End(mean[0], mean[1], "All at once", "black")])
        bests.append(mean)
    points = np.concatenate([line.get_xydata() for line in ax.lines])
    low = np.maximum(np.min(bests, 0) - _SEEN, points.min(0)) - 0.05
    high = np.minimum(np.max(bests, 0) + _SEEN, points.max(0)) + 0.05
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    open_frame(ax)
    point_to_better(ax, (0.01, 0.01), (0.08, 0.1))
    label_points(ax, titles, 9)
    save(figure, path)


def _chosen(study: Study, found: Found) -> list[Front]:
    """Each family's front with the best setting, in the study's order."""
    of_families: dict[str, tuple[float, Front]] = {}
    for front in study.fronts:
        if found.keys() & front.methods.keys():
            mean = float(np.mean([both(row) for row in found[best(front, found)]]))
            before, _ = of_families.get(front.family.title, (np.inf, front))
            if mean < before:
                of_families[front.family.title] = mean, front
    return [front for _, front in of_families.values()]


def _mean(of_method: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation over the seeds, each (learned, kept)."""
    points = np.array([(learned(row), kept(row)) for row in of_method])
    return points.mean(0), deviation(points)


def _draw(
    ax: Axes, front: Front, found: Found, marker: str
) -> tuple[list[End], np.ndarray]:
    """Draws a front; gives where its title may stand, and its best point."""
    names = [name for name in front.methods if name in found]
    means, spreads = map(np.array, zip(*(_mean(found[n]) for n in names), strict=True))
    colour, width = front.family.colour, front.family.width
    ax.plot(*means.T, color=colour, lw=width, marker=marker, ms=6, zorder=3)
    (x, y), (x_bar, y_bar) = means.T, spreads.T
    look: dict[str, Any] = dict(fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.4)
    if np.any(spreads > 0):
        ax.errorbar(x, y, y_bar, x_bar, **look)
    at_best = means[names.index(best(front, found))]
    return [End(at_best[0], at_best[1], front.title, colour)], at_best
