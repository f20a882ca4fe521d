"""Split MNIST and Split Fashion-MNIST: each task has two of the ten classes."""

import numpy as np

from examples.datasets import mnist
from examples.datasets.stream import Benchmark, Part, Published
from examples.runner.data import Split


def order(seed: int) -> np.ndarray:
    """The classes in their order, two a task: that of the labels for seed 0."""
    if seed == 0:
        return np.arange(mnist.CLASSES)
    return np.random.RandomState(seed).permutation(mnist.CLASSES)


def pairs(seed: int, scenario: str, tasks: int) -> list[Part]:
    """The images of a task's two classes, by 0 and 1 if domain-incremental."""
    classes = order(seed)
    return [_of(classes[2 * i : 2 * i + 2], scenario) for i in range(tasks)]


def _of(pair: np.ndarray, scenario: str) -> Part:
    def part(split: Split) -> Split:
        labels = np.asarray(split.labels)
        members = np.flatnonzero(np.isin(labels, pair))
        inputs, labels = np.asarray(split.inputs)[members], labels[members]
        if scenario == "domain":
            labels = (labels == pair[1]).astype(np.int32)
        return Split(inputs, labels)

    return part


def _benchmark(
    title: str, name: str, published: tuple[Published, ...] = ()
) -> Benchmark:
    return Benchmark(
        title,
        lambda folder: mnist.load(folder, [name])[name],
        mnist.normalise,
        5,
        ("class", "domain", "task"),
        pairs,
        order,
        classes_a_task=2,
        published=published,
    )


BENCHMARKS = {
    "split_mnist": _benchmark(
        "Split MNIST",
        "mnist",
        (
            Published("task", "RWalk", 99, 99),
            Published("task", "SI", 97, 97),
            Published("class", "GDumb", 97, 97),
            Published("class", "GSS", 82, 78),
            Published("class", "Generative replay", 75, 75),
            Published("class", "LwF", 23, 23),
            Published("class", "CoPE", 93, 93, online=True),
            Published("class", "Replay", 92, None, online=True),
        ),
    ),
    "split_fashion_mnist": _benchmark("Split Fashion-MNIST", "fashion_mnist"),
}
