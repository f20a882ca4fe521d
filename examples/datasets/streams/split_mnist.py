"""Split MNIST and Split Fashion-MNIST: each task has two of the ten classes."""

from examples.datasets import mnist
from examples.datasets.split import split_benchmark
from examples.datasets.stream import Benchmark, Published


def _benchmark(
    title: str, name: str, published: tuple[Published, ...] = ()
) -> Benchmark:
    return split_benchmark(
        title,
        lambda folder: mnist.load(folder, [name])[name],
        mnist.normalise,
        tasks=5,
        published=published,
        load_stored=lambda folder: mnist.load_stored(folder, [name])[name],
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
