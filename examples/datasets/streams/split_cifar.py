"""Split CIFAR-100 and Split CIFAR-10: each task has ten or two of the classes."""

from examples.datasets import cifar, images
from examples.datasets.split import split_benchmark
from examples.datasets.stream import Benchmark


def _benchmark(title: str, name: str, tasks: int) -> Benchmark:
    return split_benchmark(
        title,
        lambda folder: cifar.load(name, folder),
        images.centred,
        tasks,
        classes=cifar.CLASSES[name],
        shape=cifar.SHAPE,
        load_stored=lambda folder: cifar.load_stored(name, folder),
    )


BENCHMARKS = {
    "split_cifar100": _benchmark("Split CIFAR-100", "cifar100", 10),
    "split_cifar10": _benchmark("Split CIFAR-10", "cifar10", 5),
}
