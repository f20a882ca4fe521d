"""What data sets of images share: read from TFDS's format, cut, encoded, centred."""

import io
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from examples.datasets.tfds import check_label, read, record
from examples.runner.data import Split


def read_images(
    folder: pathlib.Path, split: str, shape: tuple[int, int, int], classes: int
) -> Split:
    """Reads a split of a prepared data set with an ``image`` and a ``label`` each.

    Args:
      folder: of the data set, as :func:`examples.datasets.tfds.prepare` returns it.
      split: ``train`` or ``test``.
      shape: of every image: height, width, channels.
      classes: how many there are.

    Returns:
      All images in TFDS's order, (n, height, width, channels), uint8.

    Raises:
      DatasetError: the folder is damaged, or an image or label is another.
    """
    images, labels = [], []
    for number, example in enumerate(read(folder, split)):
        with record(folder, split, number):
            with Image.open(io.BytesIO(example["image"])) as image:
                pixels = np.asarray(image)
            # Of one channel Pillow makes no axis.
            expected = shape if shape[2] > 1 else shape[:2]
            if pixels.shape != expected or pixels.dtype != np.uint8:
                raise ValueError(f"image of {pixels.dtype} {pixels.shape}")
            check_label(example["label"], classes)
        images.append(pixels.reshape(shape))
        labels.append(example["label"])
    return Split(np.stack(images), np.array(labels, np.int32))


def as_png(pixels: np.ndarray) -> io.BytesIO:
    """An image as TFDS stores it, encoded without TensorFlow.

    Args:
      pixels: (height, width) or (height, width, 3), uint8.

    Returns:
      The file, from its beginning.
    """
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, format="png")
    png.seek(0)
    return png


def first_of_each_class(labels: np.ndarray, parts: int) -> np.ndarray:
    """Which examples to hold out: of each class the first, one in so many.

    Args:
      labels: (n,).
      parts: of a class one in so many is held out, rounded down.

    Returns:
      Whether each is one of them, (n,), bool.
    """
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen[members[: len(members) // parts]] = True
    return chosen


def centred(images: jax.Array) -> jax.Array:
    """Pixels around 0, of no data set's own mean and deviation.

    Args:
      images: uint8, of any shape.

    Returns:
      ``images / 127.5 - 1``, float32, from -1 to 1.
    """
    return jnp.asarray(images, jnp.float32) / 127.5 - 1
