"""Permuted MNIST: each task permutes the pixels of all images in a way of its own."""

import numpy as np

from examples.datasets import mnist
from examples.datasets.stream import Benchmark, Part, Published
from examples.runner.data import Split


def permutations(seed: int, scenario: str, tasks: int) -> list[Part]:
    """A permutation a task, as Avalanche draws them; the first one permutes too."""
    del scenario
    rng = np.random.RandomState(seed)
    return [_moved(rng.permutation(mnist.SIDE**2)) for _ in range(tasks)]


def _moved(source: np.ndarray) -> Part:
    def part(split: Split) -> Split:
        images = np.asarray(split.inputs)
        flat = images.reshape(len(images), -1)
        return Split(flat[:, source].reshape(images.shape), split.labels)

    return part


BENCHMARKS = {
    "permuted_mnist": Benchmark(
        "Permuted MNIST",
        lambda folder: mnist.load(folder, ["mnist"])["mnist"],
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
    )
}
