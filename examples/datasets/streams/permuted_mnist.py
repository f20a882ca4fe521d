"""Permuted MNIST: each task permutes the pixels of all images in a way of its own."""

import pathlib

import numpy as np

from examples.datasets import digits, mnist
from examples.datasets.stream import Benchmark, Part, Published
from examples.runner.data import Split, Task
from examples.runner.stored import apply, take

# Of the long stream: 313 steps of 64 a task; more to measure on would take longer than
# to learn.
_TRAINED, _MEASURED = 20_000, 2_000


def permutations(seed: int, scenario: str, tasks: int) -> list[Part]:
    """A permutation a task, as Avalanche draws them; the first one permutes too."""
    del scenario
    rng = np.random.RandomState(seed)
    return [permuted(rng.permutation(mnist.SIDE**2)) for _ in range(tasks)]


def permuted(source: np.ndarray) -> Part:
    """A part that has all images, their pixels from other places."""

    def permute(images: np.ndarray) -> np.ndarray:
        flat = images.reshape(len(images), -1)
        return flat[:, source].reshape(images.shape)

    return lambda split: Split(apply(permute, split.inputs), split.labels)


def _load(folder: pathlib.Path | None) -> Task:
    return mnist.load(folder, ["mnist"])["mnist"]


def _load_stored(folder: pathlib.Path | None) -> Task:
    return mnist.load_stored(folder, ["mnist"])["mnist"]


def _first(whole: Task) -> Task:
    """A data set's first images alone."""
    train, test = whole
    assert test is not None
    return Task(
        Split(take(train.inputs, slice(_TRAINED)), train.labels[:_TRAINED]),
        Split(take(test.inputs, slice(_MEASURED)), test.labels[:_MEASURED]),
    )


BENCHMARKS = {
    "permuted_mnist": Benchmark(
        "Permuted MNIST",
        _load,
        mnist.normalise,
        10,
        ("domain",),
        permutations,
        published=(
            Published("domain", "LFL", 88, None),
            Published("domain", "EWC", 83, 94),
            Published("domain", "SI", 83, 95),
            Published("domain", "A-GEM", 81, 81, online=True),
            Published("domain", "GEM", 80, 83, online=True),
        ),
        load_stored=_load_stored,
    ),
    # Whether the last of many tasks are still learned.
    "permuted_mnist_long": Benchmark(
        f"Permuted MNIST, {_TRAINED:,} images a task",
        lambda folder: _first(_load(folder)),
        mnist.normalise,
        60,
        ("domain",),
        permutations,
        load_stored=lambda folder: _first(_load_stored(folder)),
    ),
    # Of the demo: nothing is downloaded.
    "permuted_digits": Benchmark(
        "Permuted digits",
        lambda folder: digits.load(),
        mnist.normalise,
        10,
        ("domain",),
        permutations,
    ),
}
