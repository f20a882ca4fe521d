"""Streams that drift: 60 segments, each a little further, and no boundary between them.

A segment has a sixtieth of MNIST's images, and no image comes twice.
"""

import pathlib

import numpy as np

from examples.datasets import mnist
from examples.datasets.stream import Benchmark, Part
from examples.datasets.streams.permuted_mnist import permuted
from examples.datasets.streams.rotated_mnist import rotated
from examples.runner.data import Split, Task

SEGMENTS = 60
_PER_PERMUTATION = 6  # Segments, in which one permutation gives way to the next.
_STEP = 3  # Degrees.


def mixed_permutations(seed: int, scenario: str, tasks: int) -> list[Part]:
    """Permutations in turn: from one to the next their share moves from 0 to 1."""
    del scenario
    rng = np.random.RandomState(seed)
    last, left_over = divmod(tasks - 1, _PER_PERMUTATION)
    orders = [
        permuted(rng.permutation(mnist.SIDE**2))
        for _ in range(last + 1 + (left_over > 0))
    ]

    def part_of(segment: int) -> Part:
        first, of_next = divmod(segment, _PER_PERMUTATION)

        def part(split: Split) -> Split:
            split = _segment(split, segment)
            moved = orders[first](split)
            if not of_next:
                return moved
            drawn = np.random.default_rng([seed, segment]).random(len(split.labels))
            next_one = drawn < of_next / _PER_PERMUTATION
            further = orders[first + 1](split).inputs
            shape = (-1, *[1] * (np.ndim(further) - 1))
            inputs = np.where(next_one.reshape(shape), further, moved.inputs)
            return Split(inputs, split.labels)

        return part

    return [part_of(segment) for segment in range(tasks)]


def turning(seed: int, scenario: str, tasks: int) -> list[Part]:
    """Images that turn: three degrees a segment, from an angle by the seed."""
    del scenario
    start = int(np.random.RandomState(seed).randint(-180, 181))

    def part_of(segment: int) -> Part:
        turn = rotated(start + _STEP * segment)
        return lambda split: turn(_segment(split, segment))

    return [part_of(segment) for segment in range(tasks)]


def _segment(split: Split, segment: int) -> Split:
    return Split(
        np.asarray(split.inputs)[segment::SEGMENTS],
        np.asarray(split.labels)[segment::SEGMENTS],
    )


def _load(folder: pathlib.Path | None) -> Task:
    return mnist.load(folder, ["mnist"])["mnist"]


BENCHMARKS = {
    "permuted_mnist_drift": Benchmark(
        "Permuted MNIST that drifts",
        _load,
        mnist.normalise,
        SEGMENTS,
        ("domain",),
        mixed_permutations,
    ),
    "rotated_mnist_drift": Benchmark(
        "Rotated MNIST that drifts",
        _load,
        mnist.normalise,
        SEGMENTS,
        ("domain",),
        turning,
    ),
}
