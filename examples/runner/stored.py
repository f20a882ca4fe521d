"""Inputs that stay where they are stored, and are read by their indices when needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Read = Callable[[np.ndarray], np.ndarray]


class Stored:
    """Inputs on a disk, say, which are indexed like an array.

    What is indexed is read, by several threads at once; nothing is kept.

    Args:
      read: gives the inputs of some indices, (n,), integers from 0 on: (n, ...).
      count: how many there are.
      shape: of one input.
      dtype: of the inputs, an integer one: nothing checks what isn't read yet.
    """

    def __init__(
        self, read: Read, count: int, shape: tuple[int, ...], dtype: Any = np.uint8
    ):
        self._read = read
        self.shape: tuple[int, ...] = (count, *shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """How large all inputs are."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Reads inputs.

        Args:
          index: a slice, or an array of integers or booleans, (n,).

        Returns:
          The inputs, (n, ...).

        Raises:
          IndexError: there are no such.
        """
        return self._read(self._which(index))

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        """Refuses to become an array unasked, as it may not fit memory."""
        raise TypeError("Stored inputs are read by their indices: inputs[:10].")

    def take(self, index: Any) -> Stored:
        """Some of the inputs, unread; ``index`` as for :meth:`__getitem__`."""
        which = self._which(index)
        return Stored(
            lambda i: self._read(which[i]), len(which), self.shape[1:], self.dtype
        )

    def map(self, f: Callable[[np.ndarray], np.ndarray]) -> Stored:
        """Inputs, unread, that become others of the same shape where they're read."""
        return Stored(lambda i: f(self._read(i)), len(self), self.shape[1:], self.dtype)

    def _which(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            return np.arange(*index.indices(len(self)))
        which = np.asarray(index)
        if which.dtype == bool:
            which = np.flatnonzero(which)
        if which.size and not 0 <= which.min() <= which.max() < len(self):
            raise IndexError(f"{which.min()} to {which.max()} of {len(self)} inputs")
        return which


class Batches(NamedTuple):
    """What was read for some steps.

    Attributes:
      inputs: (..., steps, batch, ...).
      labels: (..., steps, batch), integer.
      present: likewise, bool: which are examples, at least the first of a batch; the
        others stand where fewer are left.
    """

    inputs: Any
    labels: Any
    present: Any


def take(inputs: Any, index: Any) -> Any:
    """Some of the inputs: of an array at once, of stored ones unread."""
    if isinstance(inputs, Stored):
        return inputs.take(index)
    return np.asarray(inputs)[index]


def apply(f: Callable[[np.ndarray], np.ndarray], inputs: Any) -> Any:
    """Inputs made of others: of an array at once, of stored ones where they're read.

    Args:
      f: gives of inputs, (n, ...), as many of the same shape, each of its own one.
      inputs: (n, ...), an array or stored.

    Returns:
      The inputs, likewise.
    """
    return inputs.map(f) if isinstance(inputs, Stored) else f(np.asarray(inputs))


def concatenated(parts: Sequence[Any]) -> Stored:
    """Inputs one behind the other, unread; each part is an array or stored."""
    starts = np.cumsum([0, *map(len, parts)])
    first = parts[0]

    def read(which: np.ndarray) -> np.ndarray:
        found = np.empty((len(which), *first.shape[1:]), first.dtype)
        owners = np.searchsorted(starts, which, "right") - 1
        for owner in np.unique(owners):
            mine = owners == owner
            found[mine] = parts[owner][which[mine] - starts[owner]]
        return found

    return Stored(read, int(starts[-1]), first.shape[1:], first.dtype)
