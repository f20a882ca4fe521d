"""The figures that the experiments share."""

import collections
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from examples import report
from examples.report import Rows
from examples.study import Front, Study
from examples.tables import Found, fate


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
    of_fronts = styles([front.title for front, _ in fronts])
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
        y, x = (
            mean_deviation(joint, *o, with_dropout) for o in study.judged_on.items()
        )
        bests.append((x[0], y[0]))
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
        title="After both; the larger the marker, the larger α, ε, λ, θ or share\n"
        "(without settings with which a seed diverged)",
    )
    ax.grid(alpha=0.3)
    legend_below(figure, ax.get_legend_handles_labels()[0], columns=2)
    figure.savefig(path, dpi=150)


# What Matplotlib has names for, then more dots in a dash.
_LINES = ("-", "--", ":", "-.", *((0, (5, 1) + (1, 1) * n) for n in (2, 3, 4)))
_MARKERS = "o^sDvPXp<>"  # Of another number, so that the pairs differ for long.


def styles(labels: Iterable[str]) -> list[dict[str, Any]]:
    """A colour for each family of methods, another line and marker for each in it."""
    styles, seen = [], collections.Counter()
    for label in labels:
        # By the word alone: "AdaGrad" also begins "AdaGrad instance".
        family = label.replace(",", " ").split()[0]
        number = seen[family]
        styles.append(
            {
                "color": report.COLOURS[family],
                "ls": _LINES[number % len(_LINES)],
                "lw": 2.4 if family == "CLASSP" else 1.4,
                "marker": _MARKERS[number % len(_MARKERS)],
                "ms": 6,
                "markevery": 0.1,
            }
        )
        seen[family] += 1
    return styles


def legend_below(figure: Figure, handles: list[Line2D], columns: int) -> None:
    """Puts a legend under a figure's axes."""
    figure.legend(
        handles=handles,
        loc="outside lower center",
        handlelength=4,
        ncols=columns,
        fontsize="small",
        frameon=False,
    )


def accuracy_label(split: str, with_dropout: bool) -> str:
    """What an axis shows."""
    word = {"train": "training", "test": "test"}[split]
    return f"{word} accuracy{', dropout on' * with_dropout}, %"


def mean_deviation(
    rows: Rows, task: str, split: str, with_dropout: bool
) -> tuple[float, float]:
    """Of the accuracies at the end, in per cent."""
    of_seeds = [
        report.accuracy(row, task, split, with_dropout=with_dropout) for row in rows
    ]
    return np.mean(of_seeds), deviation(np.array(of_seeds))


def deviation(of_seeds: np.ndarray) -> np.ndarray:
    """The sample deviation over the first axis; 0 of a single seed."""
    return of_seeds.std(0, ddof=1) if len(of_seeds) > 1 else 0 * of_seeds[0]


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
