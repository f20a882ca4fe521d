"""Emoji: each task has another vendor's pictures, or other groups of symbols."""

import pathlib

import numpy as np

from examples.datasets import emoji, images
from examples.datasets.split import split_benchmark
from examples.datasets.stream import Benchmark, Part
from examples.runner.data import Split, Task


def vendors(seed: int, scenario: str, tasks: int) -> list[Part]:
    """A vendor a task; those that are tested on are symbols that no task trains on."""
    del scenario
    order = np.arange(len(emoji.VENDORS))
    if seed:
        order = np.random.RandomState(seed).permutation(order)
    return [_drawn_by(vendor) for vendor in order[:tasks].tolist()]


def _drawn_by(vendor: int) -> Part:
    def part(split: Split) -> Split:
        return Split(np.asarray(split.inputs)[:, vendor], split.labels)

    return part


def _load(folder: pathlib.Path | None) -> Task:
    return emoji.load(folder)


def _of_all_vendors(folder: pathlib.Path | None) -> Task:
    """Each picture an example, a symbol's together: a cut parts one's at most."""

    def examples(split: Split | None) -> Split:
        assert split is not None
        inputs = np.asarray(split.inputs)
        symbols, count, *shape = inputs.shape
        pictures = inputs.reshape(symbols * count, *shape)
        return Split(pictures, np.repeat(split.labels, count))

    return Task(*map(examples, _load(folder)))


BENCHMARKS = {
    "emoji": Benchmark(
        "Emoji of four vendors",
        _load,
        images.centred,
        len(emoji.VENDORS),
        ("domain",),
        vendors,
        classes=len(emoji.GROUPS),
        classes_a_task=len(emoji.GROUPS),
        shape=emoji.SHAPE,
    ),
    "split_emoji": split_benchmark(
        "Split emoji",
        _of_all_vendors,
        images.centred,
        4,
        classes=len(emoji.GROUPS),
        shape=emoji.SHAPE,
    ),
}
