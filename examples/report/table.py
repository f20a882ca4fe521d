"""Tables in Markdown, and their cells."""

from collections.abc import Iterable, Sequence

import numpy as np


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right.

    Args:
      header: the columns' names.
      lines: the cells of each line.

    Returns:
      The table, without a newline behind it.
    """
    rule = "|---|" + "---:|" * (len(header) - 1)
    head, *rest = (f"| {' | '.join(cells)} |" for cells in (header, *lines))
    return "\n".join([head, rule, *rest])


def cell(values: Iterable[float], digits: int) -> str:
    """The mean of some seeds' values and, behind it, their sample deviation.

    Args:
      values: one a seed.
      digits: behind the decimal point.

    Returns:
      ``"85.0 ± 7.1"``; only the mean where nothing deviates, and 0.0 for -0.0; an en
      dash where a value is NaN, because it wasn't measured.
    """
    values = np.fromiter(values, float)
    if np.isnan(values).any():
        return "\N{EN DASH}"
    text = f"{values.mean():z.{digits}f}"
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{text} ± {deviation:.{digits}f}" if deviation else text
