"""What data sets of images share: read from TFDS's format, cut, encoded, centred."""

import io
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from examples.datasets.tfds import (
    Records,
    check_label,
    import_extra,
    read,
    record,
)
from examples.runner.data import Split
from examples.runner.stored import Stored


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
            images.append(_pixels(example, shape))
            check_label(example["label"], classes)
        labels.append(example["label"])
    return Split(np.stack(images), np.array(labels, np.int32))


def stored_images(
    folder: pathlib.Path, split: str, shape: tuple[int, int, int], classes: int
) -> Split:
    """The same split, with images that are read and decoded when they're asked for.

    The labels are read at once, in a pass over the records that decodes no image.

    Args:
      folder: as for :func:`read_images`.
      split: likewise.
      shape: likewise.
      classes: likewise.

    Returns:
      Stored images in TFDS's order, (n, height, width, channels), uint8.

    Raises:
      DatasetError: the folder is damaged, a label is another, or Grain isn't installed;
        where images are read, one is damaged or another.
    """
    import_extra("grain")  # Before anything takes long.
    labels = []
    for number, example in enumerate(read(folder, split)):
        with record(folder, split, number):
            check_label(example["label"], classes)
        labels.append(example["label"])
    records = Records(folder, split)

    def read_some(which: np.ndarray) -> np.ndarray:
        images = np.empty((len(which), *shape), np.uint8)
        # Of no record array_record makes an error.
        found = records.read(which.tolist()) if len(which) else []
        for image, number, example in zip(images, which, found, strict=True):
            with record(folder, split, number):
                image[:] = _pixels(example, shape)
        return images

    return Split(Stored(read_some, len(labels), shape), np.array(labels, np.int32))


def _pixels(example: dict[str, Any], shape: tuple[int, int, int]) -> np.ndarray:
    with Image.open(io.BytesIO(example["image"])) as image:
        pixels = np.asarray(image)
    # Of one channel Pillow makes no axis.
    expected = shape if shape[2] > 1 else shape[:2]
    if pixels.shape != expected or pixels.dtype != np.uint8:
        raise ValueError(f"image of {pixels.dtype} {pixels.shape}")
    return pixels.reshape(shape)


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
