"""How far the tensors of two runs are apart."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

# Of a tensor's steps that wait to be compared; as much again is expected of them.
_MOST_BYTES = 2**20


class Differences(NamedTuple):
    """The largest differences of one tensor at each step, (steps,) each.

    Attributes:
      absolute: the largest difference.
      relative: the largest difference by the larger of the value and the root mean
        square of its tensor; a weight on its way through zero has no scale of its own.
      ulp: the same in units in the last place of that scale.
    """

    absolute: np.ndarray
    relative: np.ndarray
    ulp: np.ndarray


def differences(
    actual: np.ndarray, expected: np.ndarray, smallest_scale: float | np.ndarray = 0.0
) -> Differences:
    """Compares two arrays (steps, *shape) of one floating dtype, step by step.

    ``smallest_scale`` is a number, or one for each step (steps, 1).
    """
    actual, expected = (np.reshape(x, (len(x), -1)) for x in (actual, expected))
    rms = np.maximum(root_mean_square(expected), smallest_scale)
    scale = np.maximum(np.abs(expected), rms)
    tiny = float(jnp.finfo(expected.dtype).tiny)
    agree = (actual == expected) | (np.isnan(actual) & np.isnan(expected))

    with np.errstate(invalid="ignore"):
        difference = np.abs(np.subtract(actual, expected, dtype=np.float64))
        unit = np.spacing(np.maximum(scale, tiny).astype(expected.dtype))

    def largest(unit: Any) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            quotient = np.where(agree, 0.0, difference / unit)
        most = np.asarray(np.max(quotient, axis=1, initial=0.0))
        # Not a number where one side alone is not finite: as far apart as can be.
        return np.where(np.isnan(most), np.inf, most)

    return Differences(largest(1.0), largest(np.maximum(scale, tiny)), largest(unit))


def root_mean_square(array: np.ndarray) -> np.ndarray:
    """Of the finite elements, over all axes but the first; (len, 1)."""
    array = np.where(np.isfinite(array), array, 0.0)
    squares = np.square(np.reshape(array, (len(array), -1)), dtype=np.float64)
    mean = np.sum(squares, axis=1, keepdims=True) / max(squares.shape[1], 1)
    return np.asarray(np.sqrt(mean))


@dataclasses.dataclass
class Distance:
    """The largest differences of one tensor over a run.

    The root mean square that they are relative to is the largest that the tensor has
    had so far: rounding errors don't shrink with a bias that starts at zero, grows and
    comes back. Steps are compared many at once: only behind :meth:`finish` do the
    attributes hold them all.

    Attributes:
      shape: the tensor's shape.
      tolerance: the largest ``relative`` allowed.
      absolute: as in :class:`Differences`, the largest of all steps.
      relative: likewise.
      ulp: likewise.
      first_over: the first step, from 1, at which ``relative`` was over the tolerance.
      ulp_by_step: ``ulp`` at each step.
      scale: the largest root mean square so far.
    """

    shape: tuple[int, ...]
    tolerance: float
    absolute: float = 0.0
    relative: float = 0.0
    ulp: float = 0.0
    first_over: int | None = None
    ulp_by_step: list[float] = dataclasses.field(default_factory=list)
    scale: float = 0.0
    _actual: list[np.ndarray] = dataclasses.field(default_factory=list)
    _expected: list[np.ndarray] = dataclasses.field(default_factory=list)

    def add(self, actual: np.ndarray, expected: np.ndarray) -> None:
        """Takes in the tensors after one more step: ``expected``'s values, copied."""
        self._actual.append(actual)
        self._expected.append(np.array(expected))
        if len(self._actual) * actual.nbytes > _MOST_BYTES:
            self.finish()

    def finish(self) -> None:
        """Compares the steps taken in since the last time."""
        if not self._actual:
            return
        actual, expected = np.stack(self._actual), np.stack(self._expected)
        self._actual, self._expected = [], []
        scales = np.maximum.accumulate(root_mean_square(expected))
        scales = np.maximum(scales, self.scale)
        self.scale = float(scales[-1, 0])
        if np.array_equal(actual, expected):  # Most sums, and in no time.
            self.ulp_by_step += [0.0] * len(actual)
            return
        new = differences(actual, expected, scales)
        over = np.flatnonzero(new.relative > self.tolerance)
        if self.first_over is None and over.size:
            self.first_over = len(self.ulp_by_step) + int(over[0]) + 1
        self.ulp_by_step += new.ulp.tolist()
        self.absolute = max(self.absolute, float(np.max(new.absolute)))
        self.relative = max(self.relative, float(np.max(new.relative)))
        self.ulp = max(self.ulp, float(np.max(new.ulp)))
