"""Whether one method is ahead of another: differences over seeds, with an interval."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

CONFIDENCE = 0.95


class Paired(NamedTuple):
    """How far one method is ahead of another on the seeds that both have.

    Attributes:
      difference: the mean, in points.
      low: the lower end of its interval; of one seed minus infinity.
      high: the upper end; of one seed infinity.
      seeds: how many there are.
    """

    difference: float
    low: float
    high: float
    seeds: int

    @property
    def verdict(self) -> str:
        """Ahead or behind where the interval has no 0 in it, tied where it has."""
        if self.low > 0:
            return "ahead"
        return "behind" if self.high < 0 else "tied"

    def __str__(self) -> str:
        """As a table has it."""
        if self.seeds < 2:
            return f"{self.difference:+.1f}"
        return f"{self.difference:+.1f} ({self.low:+.1f} to {self.high:+.1f})"


def paired(one: Mapping[Any, float], other: Mapping[Any, float]) -> Paired | None:
    """Compares two methods seed by seed, by Student's t distribution.

    Args:
      one: a method's measure by the seed.
      other: the other's.

    Returns:
      The comparison; None if they have no seed in common.
    """
    seeds = [seed for seed in one if seed in other]
    if not seeds:
        return None
    differences = np.array([one[seed] - other[seed] for seed in seeds])
    low, high = -np.inf, np.inf
    if len(seeds) > 1:
        room = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(seeds) - 1)
        half = room * differences.std(ddof=1) / len(seeds) ** 0.5
        low, high = differences.mean() - half, differences.mean() + half
    return Paired(float(differences.mean()), float(low), float(high), len(seeds))
