"""MNIST and Fashion-MNIST, read without TensorFlow."""

import io
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tqdm import tqdm

from examples import datasets

_CHUNK = 1000


class Split(NamedTuple):
    """Images and their classes.

    Attributes:
      images: (n, 28, 28, 1), uint8, white on black.
      labels: (n,), int32, 0 to 9.
    """

    images: np.ndarray
    labels: np.ndarray


class Task(NamedTuple):
    """A data set: 60,000 images to train on, 10,000 held out.

    Attributes:
      train: the images to train on, in the random order that TFDS stores them in.
      test: the images held out.
    """

    train: Split
    test: Split


class Data(NamedTuple):
    """The experiment's two tasks, in their order.

    Attributes:
      mnist: handwritten digits.
      fashion_mnist: articles of clothing.
    """

    mnist: Task
    fashion_mnist: Task


def load(data_dir: pathlib.Path | None = None) -> Data:
    """Reads both data sets, in some ten seconds.

    Args:
      data_dir: TFDS's folder of data sets; without it TFDS's own default,
        ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.

    Returns:
      Both tasks as arrays, 110 MB in all.
    """
    names = ("mnist", "fashion_mnist")
    sources = {
        (name, split): datasets.open_source(f"{name}/3.0.1", split, data_dir)
        for name in names
        for split in Task._fields
    }
    total = sum(map(len, sources.values()))
    with tqdm(total=total, desc="Reading", unit="image", disable=None) as bar:
        splits = {key: _read(source, bar) for key, source in sources.items()}
    return Data(
        *(Task(*(splits[name, split] for split in Task._fields)) for name in names)
    )


def _read(source: Sequence[dict[str, Any]], bar: tqdm) -> Split:
    images = np.empty((len(source), 28, 28, 1), np.uint8)
    labels = np.empty(len(source), np.int32)
    for start in range(0, len(source), _CHUNK):
        indices = range(start, min(start + _CHUNK, len(source)))
        for i, example in zip(indices, source.__getitems__(indices), strict=True):
            with Image.open(io.BytesIO(example["image"])) as image:
                images[i, :, :, 0] = image
            labels[i] = example["label"]
        bar.update(len(indices))
    return Split(images, labels)


def normalise(images: jax.Array) -> jax.Array:
    """Pixels as the paper's experiment feeds them to its network.

    Both data sets by MNIST's mean and deviation, as there.

    Args:
      images: uint8, of any shape.

    Returns:
      ``(images / 255 - 0.1307) / 0.3081``, float32.
    """
    return (jnp.asarray(images, jnp.float32) / 255 - 0.1307) / 0.3081
