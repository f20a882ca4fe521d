"""The text experiment's own figures: what is left of PhraseBank as IMDB is learned."""

import pathlib
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from examples.report.lines import End, draw_mean, label_ends, looks, open_frame, save
from examples.report.measures import curve
from examples.report.style import Lines, accuracy_label, with_seeds
from examples.sentiment.study import TASKS

_REACHED = np.arange(60.0, 96.0)  # Accuracies on IMDB, in per cent.
_POINTS = 100  # Of a line along the epochs.


def at_equal_accuracy(
    row: dict[str, Any], level: float, *, with_dropout: bool = False
) -> float:
    """Accuracy on PhraseBank when that on IMDB first reached a level.

    Between two measurements both are taken to go on in a straight line.

    Args:
      row: a row of results.
      level: in per cent.
      with_dropout: whether dropout was left on.

    Returns:
      In per cent; NaN if it never did.
    """
    _, of_imdb, of_phrase_bank = _on_imdb(row, with_dropout=with_dropout)
    reached = np.flatnonzero(of_imdb >= level)
    if not len(reached):
        return float("nan")
    around = slice(max(reached[0] - 1, 0), reached[0] + 1)
    return float(np.interp(level, of_imdb[around], of_phrase_bank[around]))


def save_forgetting(
    lines: Lines, path: pathlib.Path, *, with_dropout: bool = False
) -> None:
    """Draws both accuracies along training on IMDB, as far as all seeds train.

    Args:
      lines: by their labels.
      path: where to save the PNG; an SVG comes beside it.
      with_dropout: whether to take the accuracies with dropout left on.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, len(TASKS))
    ends: list[list[End]] = [[] for _ in axes]
    named = with_seeds(lines)
    of_lines = looks([family for family, _ in lines.values()])
    for (label, (_, rows)), look in zip(lines.items(), of_lines, strict=True):
        fewest = min(row["results"][-1]["epochs"] for row in rows)
        epochs = np.geomspace(1, max(fewest, 2), _POINTS)
        curves = []
        for row in rows:
            steps, of_imdb, of_first = _on_imdb(row, with_dropout=with_dropout)
            at = steps * row["results"][-1]["epochs"] / steps[-1]
            curves.append([np.interp(epochs, at, of) for of in (of_first, of_imdb)])
        for ax, ends_of, of_seeds in zip(
            axes, ends, np.swapaxes(curves, 0, 1), strict=True
        ):
            ends_of.append(draw_mean(ax, epochs, of_seeds, named[label], look))
    for ax, title in zip(axes, TASKS.values(), strict=True):
        ax.set(title=f"Accuracy on {title}", xlabel="epochs of IMDB", xscale="log")
        ax.xaxis.set_major_formatter("{x:g}")
        open_frame(ax)
    axes[0].set_ylabel(accuracy_label("train", with_dropout))
    for ax, ends_of in zip(axes, ends, strict=True):
        label_ends(ax, ends_of, column=True)
    save(figure, path)


def save_equal_accuracy(
    lines: Lines, path: pathlib.Path, *, with_dropout: bool = False
) -> None:
    """Draws PhraseBank's accuracy when IMDB's first reaches a level, if all seeds' do.

    Args:
      lines: by their labels.
      path: where to save the PNG; an SVG comes beside it.
      with_dropout: whether to take the accuracies with dropout left on.
    """
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    ax = figure.subplots()
    named = with_seeds(lines)
    of_lines = looks([family for family, _ in lines.values()])
    ends = []
    for (label, (_, rows)), look in zip(lines.items(), of_lines, strict=True):
        of_seeds = np.array(
            [
                [at_equal_accuracy(row, x, with_dropout=with_dropout) for x in _REACHED]
                for row in rows
            ]
        )
        by_all = ~np.isnan(of_seeds).any(0)
        if by_all.any():
            levels = _REACHED[by_all]
            ends.append(draw_mean(ax, levels, of_seeds[:, by_all], named[label], look))
    ax.set(
        xlabel=f"IMDB: {accuracy_label('train', with_dropout)}",
        ylabel=f"PhraseBank: {accuracy_label('train', with_dropout)}",
        title="What is left of PhraseBank as IMDB is learned",
    )
    open_frame(ax)
    label_ends(ax, ends)
    save(figure, path)


def _on_imdb(
    row: dict[str, Any], *, with_dropout: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps on IMDB, and accuracies on it and on PhraseBank at them, in per cent."""
    points = curve(row, "imdb", with_dropout=with_dropout)
    of_phrase_bank = curve(row, "phrase_bank", with_dropout=with_dropout)[1]
    # The last phase alone: the one before ends at the step at which it begins.
    count = len(row["results"][-1]["curve"]["step"])
    steps, of_imdb = (values[-count:] for values in points)
    return steps - steps[0], of_imdb, of_phrase_bank[-count:]
