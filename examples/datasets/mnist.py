"""MNIST and Fashion-MNIST, prepared and read without TensorFlow."""

import gzip
import math
import pathlib
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from examples.datasets.images import as_png, read_images, stored_images
from examples.datasets.tfds import import_tfds, prepare
from examples.runner.data import Split, Task

SIDE = 28  # Pixels.
CLASSES = 10
_VERSION = "3.0.1"
_NAMES = ("mnist", "fashion_mnist")


def load(
    data_dir: pathlib.Path | None = None, names: Sequence[str] = _NAMES
) -> dict[str, Task]:
    """Reads the data sets, in some five seconds each; downloads what's missing.

    Args:
      data_dir: TFDS's folder of data sets; None for TFDS's own default,
        ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.
      names: of the data sets, by default both, MNIST first.

    Returns:
      The tasks by their names: 60,000 images each to train on, in the
      random order that TFDS stores them in, and 10,000 held out; (n, 28, 28, 1),
      uint8, white on black.

    Raises:
      DatasetError: a data set is damaged, or missing and can't be downloaded.
    """
    return _load(data_dir, names, _read)


def load_stored(
    data_dir: pathlib.Path | None = None, names: Sequence[str] = _NAMES
) -> dict[str, Task]:
    """As :func:`load`, but the images stay on the disk until they're asked for."""
    return _load(data_dir, names, _read_stored)


def _load(
    data_dir: pathlib.Path | None,
    names: Sequence[str],
    of_split: Callable[[pathlib.Path, str], Split],
) -> dict[str, Task]:
    folders = {
        name: prepare(f"{name}/{_VERSION}", data_dir, _builder_class(name))
        for name in names
    }
    return {
        name: Task(*(of_split(folder, split) for split in Task._fields))
        for name, folder in folders.items()
    }


def _read(folder: pathlib.Path, split: str) -> Split:
    return read_images(folder, split, (SIDE, SIDE, 1), CLASSES)


def _read_stored(folder: pathlib.Path, split: str) -> Split:
    return stored_images(folder, split, (SIDE, SIDE, 1), CLASSES)


def _builder_class(name: str) -> type:
    """TFDS's builder of a data set, less the steps for which it needs TensorFlow."""
    tfds = import_tfds()
    published: Any = tfds.builder_cls(name)
    # Fashion-MNIST's files are named as MNIST's are.
    files = {"train": "train", "test": "t10k"}

    class Builder(published, skip_registration=True):  # type: ignore[call-arg,misc]
        name = published.name
        VERSION = tfds.core.Version(_VERSION)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            paths = dl_manager.download(
                {
                    split: [
                        f"{self.URL}{file}-images-idx3-ubyte.gz",
                        f"{self.URL}{file}-labels-idx1-ubyte.gz",
                    ]
                    for split, file in files.items()
                }
            )
            return {split: self._generate_examples(*paths[split]) for split in files}

        def _generate_examples(
            self, images: pathlib.Path, labels: pathlib.Path
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            pixels, classes = _read_idx(images, (SIDE, SIDE)), _read_idx(labels, ())
            if len(pixels) != len(classes):
                raise ValueError(
                    f"{images} has {len(pixels)} images, {labels} {len(classes)} labels"
                )
            pairs = zip(pixels, classes.tolist(), strict=True)
            # The keys decide the order in which TFDS stores the examples: its own.
            for key, (image, label) in enumerate(pairs):
                yield key, {"image": as_png(image), "label": label}

    return Builder


def _read_idx(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray:
    """The bytes of a published file, so many a record."""
    content = gzip.decompress(path.read_bytes())
    dimensions = 1 + len(shape)
    begin = 4 * (1 + dimensions)
    # A magic number, 8 for bytes in it, and the dimensions.
    magic, number, *rest = struct.unpack(
        f">{1 + dimensions}I", content[:begin].ljust(begin)
    )
    expected = begin + number * math.prod(shape)
    if (magic, *rest) != (0x800 + dimensions, *shape) or len(content) != expected:
        raise ValueError(f"{path} doesn't hold bytes of shape {('n', *shape)}")
    return np.frombuffer(content, np.uint8, offset=begin).reshape(number, *shape)


def normalise(images: jax.Array) -> jax.Array:
    """Pixels as the paper's experiment feeds them to its network.

    Both data sets by MNIST's mean and deviation, as there.

    Args:
      images: uint8, of any shape.

    Returns:
      ``(images / 255 - 0.1307) / 0.3081``, float32.
    """
    return (jnp.asarray(images, jnp.float32) / 255 - 0.1307) / 0.3081
