"""Rotated MNIST: each task turns all images by an angle of its own."""

import numpy as np
from PIL import Image

from examples.datasets import mnist
from examples.datasets.stream import Benchmark, Part
from examples.runner.data import Split
from examples.runner.stored import apply


def rotations(seed: int, scenario: str, tasks: int) -> list[Part]:
    """An angle a task, as Avalanche draws them."""
    del scenario
    rng = np.random.RandomState(seed)
    return [rotated(int(rng.randint(-180, 181))) for _ in range(tasks)]


def rotated(angle: int) -> Part:
    """A part that has all images, turned counterclockwise by an angle in degrees."""
    # Where each pixel comes from; what comes from outside is black.
    pixels = np.arange(mnist.SIDE**2, dtype=np.int32).reshape(mnist.SIDE, mnist.SIDE)
    turned = Image.fromarray(pixels).rotate(
        angle, Image.Resampling.NEAREST, fillcolor=-1
    )
    source = np.asarray(turned).ravel()

    def turn(images: np.ndarray) -> np.ndarray:
        flat = images.reshape(len(images), -1)
        moved = np.where(source < 0, np.uint8(0), flat[:, source])
        return moved.reshape(images.shape)

    return lambda split: Split(apply(turn, split.inputs), split.labels)


BENCHMARKS = {
    "rotated_mnist": Benchmark(
        "Rotated MNIST",
        lambda folder: mnist.load(folder, ["mnist"])["mnist"],
        mnist.normalise,
        10,
        ("domain",),
        rotations,
        load_stored=lambda folder: mnist.load_stored(folder, ["mnist"])["mnist"],
    )
}
