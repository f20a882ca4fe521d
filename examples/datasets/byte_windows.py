"""Any texts as windows of bytes, each with the bytes that follow them."""

import pathlib
from collections.abc import Sequence

import numpy as np

from examples.runner.data import Split, Task

PART = 0.05
"""The share of a text, from its end, that is held out for the test; what stands before
it and is as long, for validation."""


def load(
    paths: dict[str, pathlib.Path],
    context: int,
    most: Sequence[int] | None = None,
    *,
    validation: bool = False,
) -> dict[str, Task]:
    """Reads texts, one a task.

    Args:
      paths: a file of each, in any encoding, by what to call it.
      context: bytes of a window.
      most: on how many bytes to train of the first text and of each later one, the
        first ones; None for all but those held out.
      validation: whether to measure on what is held out for validation, not the test.

    Returns:
      The tasks: inputs are windows, (n, context), uint8, one behind the other without a
      gap; labels the bytes that follow each of theirs, (n, context), int32.

    Raises:
      OSError: a file can't be read.
      ValueError: a text is too short for a window of each part.
    """
    tasks: dict[str, Task] = {}
    for name, path in paths.items():
        text = np.frombuffer(path.read_bytes(), np.uint8)
        held_out = int(PART * len(text))
        test, before = len(text) - held_out, len(text) - 2 * held_out
        if held_out <= context:
            raise ValueError(
                f"{name}: {path} has {len(text):,} bytes, but {PART:.0%} must be above"
                f" the context, {context}: it takes {round(context / PART) + 20:,}."
            )
        tested = text[before:test] if validation else text[test:]
        train = text[:before]
        if most is not None:
            train = train[: most[bool(tasks)]]
        if len(train) <= context:
            raise ValueError(
                f"{name}: the {len(train):,} bytes to train on must be more than the"
                f" context, {context}."
            )
        tasks[name] = Task(_windows(train, context), _windows(tested, context))
    return tasks


def _windows(text: np.ndarray, context: int) -> Split:
    count = (len(text) - 1) // context
    inputs = text[: count * context].reshape(count, context)
    following = text[1 : count * context + 1].reshape(count, context)
    return Split(inputs, following.astype(np.int32))
