"""The figures that the experiments share."""

import pathlib
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.methods import plain
from examples.report.lines import End, open_frame, point_to_better, save
from examples.report.measures import mean_deviation
from examples.report.places import label_points
from examples.report.style import MARKERS, accuracy_label
from examples.report.tables import Found, best, fate, judged
from examples.runner.study import Front, Study

_MOST_FRONTS = 5


def save_fronts(
    study: Study,
    found: Found,
    path: pathlib.Path,
    *,
    with_dropout: bool = False,
) -> None:
    """Draws what is kept of the first task against what is learned of the second.

    Of each family the front with the best setting is drawn, by the mean of both
    accuracies, of at most five families: SGD and those with the best fronts. Settings
    with which a seed diverged are left out. Where no front has two settings there is
    none to draw, and no file.

    Args:
      study: what was compared.
      found: the rows, some of them of its fronts.
      path: where to save the PNG; an SVG comes beside it.
      with_dropout: whether to take the accuracies with dropout left on.
    """
    if all(len(found.keys() & front.methods.keys()) < 2 for front in study.fronts):
        return
    # A mean with a run that diverged is no point between its neighbours.
    drawn = {
        name: rows
        for name, rows in found.items()
        if all(fate(study, row) != "not finite" for row in rows)
    }
    figure = Figure(figsize=(8.5, 5.2), layout="constrained")
    ax = figure.subplots()
    fronts = chosen(study, drawn)
    points = [_points(study, front, drawn, with_dropout) for front in fronts]
    bests = [of.mean[of.mean.sum(1).argmax()] for of in points]
    if joint := drawn.get("joint"):
        both = [mean_deviation(joint, *on, with_dropout) for on in _axes(study)]
        bests.append(np.array([mean for mean, _ in both]))
    # Where each is at its best; how the worse of them go on isn't worth the room.
    low = np.min(bests, 0) - 4
    high = np.minimum(np.add(np.max(bests, 0), (3, 2)), 101)
    titles, values = [], []
    for front, of, marker in zip(fronts, points, MARKERS, strict=False):
        title, of_values = _draw(ax, front, of, marker, low, high)
        titles.append(title)
        values += of_values
    if joint:
        ax.plot(*bests[-1], "*", color="black", ms=12, zorder=4)
        x, y = bests[-1]
        titles.append([End(x, y, "Joint training", "black")])
    (first, second), (y_split, x_split) = study.tasks.values(), study.judged_on.values()
    ax.set(
        xlim=(low[0], high[0]),
        ylim=(low[1], high[1]),
        xlabel=f"{second}, learned second: {accuracy_label(x_split, with_dropout)}",
        ylabel=f"{first}, learned first: {accuracy_label(y_split, with_dropout)}",
        title=f"What is kept of {first}, and learned of {second}",
    )
    open_frame(ax)
    point_to_better(ax, (0.99, 0.99), (0.9, 0.89))
    label_points(ax, titles, 9)
    label_points(ax, values, 7)
    save(figure, path)


def chosen(study: Study, found: Found) -> list[Front]:
    """The fronts that the figure shows, the one with the best setting first."""
    of_families: dict[str, tuple[float, Front]] = {}
    for front in study.fronts:
        of_plain = front.family != plain.SGD or front.title == plain.SGD.title
        if found.keys() & front.methods.keys() and of_plain:
            rows = found[best(study, front, found)]
            mean = float(np.mean([judged(study, row) for row in rows]))
            before, _ = of_families.get(front.family.title, (-np.inf, front))
            if mean > before:
                of_families[front.family.title] = mean, front
    by_mean = sorted(of_families.values(), key=lambda pair: -pair[0])
    fronts = [front for _, front in by_mean]
    sgd = [front for front in fronts if front.family == plain.SGD]
    others = [front for front in fronts if front.family != plain.SGD]
    return [*others[: _MOST_FRONTS - len(sgd)], *sgd]


class _Points(NamedTuple):
    """A front's points: means and deviations, of (settings, second and first task)."""

    values: list[float]
    mean: np.ndarray
    deviation: np.ndarray


def _axes(study: Study) -> list[tuple[str, str]]:
    """What is on the horizontal and the vertical axis: tasks and their splits."""
    return list(study.judged_on.items())[::-1]


def _points(study: Study, front: Front, found: Found, with_dropout: bool) -> _Points:
    names = [name for name in front.methods if name in found]
    both = np.array(
        [
            [mean_deviation(found[name], *on, with_dropout) for on in _axes(study)]
            for name in names
        ]
    )
    values = [front.values[name] for name in names]
    return _Points(values, both[..., 0], both[..., 1])


def _draw(
    ax: Axes,
    front: Front,
    points: _Points,
    marker: str,
    low: np.ndarray,
    high: np.ndarray,
) -> tuple[list[End], list[list[End]]]:
    """Draws a front along its setting.

    Gives where its title may stand, and where the values of its setting.
    """
    colour = front.family.colour
    (x, y), (x_bar, y_bar) = points.mean.T, points.deviation.T
    ax.plot(x, y, color=colour, lw=front.family.width, marker=marker, ms=6, zorder=3)
    seen = np.all((points.mean >= low) & (points.mean <= high), axis=1)
    bars = seen & np.any(points.deviation > 0, axis=1)
    look: dict[str, Any] = dict(fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.4)
    ax.errorbar(x[bars], y[bars], y_bar[bars], x_bar[bars], **look)
    ends = np.flatnonzero(seen)[[0, -1]]
    title = [End(x[i], y[i], front.title, colour) for i in ends]
    values = [
        [End(x[i], y[i], f"{front.knob} {points.values[i]:.6g}", colour)]
        for i in dict.fromkeys(ends)
    ]
    return title, values
