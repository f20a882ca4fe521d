"""The figures that the experiments share."""

import pathlib

import numpy as np
from matplotlib.figure import Figure

from examples.report.measures import mean_deviation
from examples.report.style import accuracy_label, legend_below, styles
from examples.report.tables import Found, fate
from examples.runner.study import Front, Study


def save_fronts(
    study: Study,
    found: Found,
    path: pathlib.Path,
    *,
    with_dropout: bool = False,
) -> None:
    """Draws what is kept of the first task against what is learned of the second.

    Settings with which a seed diverged are left out. Where no front has two settings
    there is none to draw, and no file.

    Args:
      study: what was compared.
      found: the rows, some of them of its fronts.
      path: where to save the PNG.
      with_dropout: whether to take the accuracies with dropout left on.
    """
    if all(len(found.keys() & front.methods.keys()) < 2 for front in study.fronts):
        return
    figure = Figure(figsize=(10.5, 6.6), layout="constrained")
    ax = figure.subplots()
    # A mean with a run that diverged is no point between its neighbours.
    drawn = {
        name: rows
        for name, rows in found.items()
        if all(fate(study, row) != "not finite" for row in rows)
    }
    fronts = [
        (front, {name: drawn[name] for name in front.methods if name in drawn})
        for front in study.fronts
        if drawn.keys() & front.methods.keys()
    ]
    bests = []
    of_fronts = styles(front.family for front, _ in fronts)
    for (front, points), style in zip(fronts, of_fronts, strict=True):
        y, x = (
            np.array([mean_deviation(r, *on, with_dropout) for r in points.values()])
            for on in study.judged_on.items()
        )
        colour = style["color"]
        error_bars = dict(fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.5)
        ax.errorbar(x[:, 0], y[:, 0], y[:, 1], x[:, 1], **error_bars)
        line = style | {"markevery": []}  # Its markers in the legend alone.
        ax.plot(x[:, 0], y[:, 0], label=_describe(front, points), **line)
        # The larger the value, the larger the marker.
        every = sorted(front.values.values())
        sizes = [20 + 100 * every.index(front.values[n]) / len(every) for n in points]
        look = dict(marker=style["marker"], edgecolors="white", linewidths=0.8)
        ax.scatter(x[:, 0], y[:, 0], sizes, colour, **look, zorder=3)
        best = (x + y)[:, 0].argmax()
        bests.append((x[best, 0], y[best, 0]))
    if joint := drawn.get("joint"):
        (joint_y, _), (joint_x, _) = (
            mean_deviation(joint, *o, with_dropout) for o in study.judged_on.items()
        )
        bests.append((joint_x, joint_y))
        label = "Joint training, on both at once"
        ax.scatter(*bests[-1], 160, "black", marker="*", label=label, zorder=3)
    (first, second), (y_split, x_split) = study.tasks.values(), study.judged_on.values()
    # Where each is at its best; how the worse of them go on isn't worth the room.
    (left, bottom), (right, top) = np.min(bests, 0) - 3, np.max(bests, 0) + 1
    ax.set(
        xlim=(left, right),
        ylim=(bottom, min(top, 100)),
        xlabel=f"{second}, learned second: {accuracy_label(x_split, with_dropout)}",
        ylabel=f"{first}, learned first: {accuracy_label(y_split, with_dropout)}",
        title="After both; the larger the marker, the larger α, ε, κ, λ, θ or share\n"
        "(without settings with which a seed diverged)",
    )
    ax.grid(alpha=0.3)
    legend_below(figure, ax.get_legend_handles_labels()[0], columns=2)
    figure.savefig(path, dpi=150)


def _describe(front: Front, found: Found) -> str:
    """A front's title, its values and what its methods keep, least to most."""
    values = [front.values[name] for name in found]
    kept = [rows[0]["results"][-1]["bytes_per_weight"] for rows in found.values()]
    return (
        f"{front.title}, {front.knob} {_range(values, '{:.6g}')}:"
        f" {_range(kept, '{:.2g}')} bytes a weight"
    )


def _range(numbers: list[float], form: str) -> str:
    least, most = (form.format(number) for number in (min(numbers), max(numbers)))
    return least if least == most else f"{least} to {most}"
