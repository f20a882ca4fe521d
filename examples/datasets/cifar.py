"""CIFAR-10 and CIFAR-100, prepared and read without TensorFlow."""

import math
import pathlib
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from examples.datasets.images import as_png, read_images, stored_images
from examples.datasets.tfds import import_tfds, prepare
from examples.runner.data import Task

SHAPE = (32, 32, 3)
CLASSES = {"cifar10": 10, "cifar100": 100}
_VERSION = "3.0.2"


def load(name: str, data_dir: pathlib.Path | None = None) -> Task:
    """Reads one of the data sets; downloads it where it's missing.

    Args:
      name: ``cifar10`` or ``cifar100``.
      data_dir: TFDS's folder of data sets; None for TFDS's own default,
        ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.

    Returns:
      50,000 images to train on, in the random order that TFDS stores them in, and
      10,000 held out; (n, 32, 32, 3), uint8. CIFAR-100's labels are the fine ones.

    Raises:
      DatasetError: the data set is damaged, or missing and can't be downloaded.
    """
    folder = prepare(f"{name}/{_VERSION}", data_dir, _builder_class(name))
    return Task(
        *(read_images(folder, split, SHAPE, CLASSES[name]) for split in Task._fields)
    )


def load_stored(name: str, data_dir: pathlib.Path | None = None) -> Task:
    """As :func:`load`, but the images stay on the disk until they're asked for."""
    folder = prepare(f"{name}/{_VERSION}", data_dir, _builder_class(name))
    return Task(
        *(stored_images(folder, split, SHAPE, CLASSES[name]) for split in Task._fields)
    )


def _builder_class(name: str) -> type:
    """TFDS's builder of a data set, less the steps for which it needs TensorFlow."""
    tfds = import_tfds()
    published: Any = tfds.builder_cls(name)

    class Builder(published, skip_registration=True):  # type: ignore[call-arg,misc]
        name = published.name
        VERSION = tfds.core.Version(_VERSION)
        # Where the archive is and what it holds, which TFDS says of every instance.
        _cifar_info = published._cifar_info.fget(published)
        URL = _cifar_info.url

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            of = self._cifar_info
            archive = dl_manager.download(self.URL)
            for key, file in zip(of.label_keys, of.label_files, strict=True):
                (text,) = _members(archive, of.prefix, [file])
                names = [line for line in text.decode().split("\n") if line]
                self.info.features[key].names = names
            return {
                "train": self._generate_examples("train_", archive, of.train_files),
                "test": self._generate_examples("test_", archive, of.test_files),
            }

        def _generate_examples(
            self, prefix: str, archive: pathlib.Path, files: list[str]
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            of, start = self._cifar_info, 0
            for content in _members(archive, of.prefix, files):
                rows = _rows(content, len(of.label_keys))
                # The keys decide the order in which TFDS stores the examples: its own.
                for key, row in enumerate(rows, start):
                    labels = row[: len(of.label_keys)].tolist()
                    planes = row[len(labels) :].reshape(SHAPE[2], *SHAPE[:2])
                    yield (
                        key,
                        {
                            **dict(zip(of.label_keys, labels, strict=True)),
                            "id": f"{prefix}{key:05d}",
                            "image": as_png(np.moveaxis(planes, 0, -1)),
                        },
                    )
                start += len(rows)

    return Builder


def _members(archive: pathlib.Path, folder: str, files: list[str]) -> Iterator[bytes]:
    """The contents of some of an archive's files, in the order asked for."""
    with tarfile.open(archive) as tar:
        for file in files:
            member = tar.extractfile(f"{folder}{file}")
            if member is None:
                raise ValueError(f"{archive}: {folder}{file} is no file")
            yield member.read()


def _rows(content: bytes, labels: int) -> np.ndarray:
    """The bytes of a published file, an example a row: its labels, then its pixels."""
    size = labels + math.prod(SHAPE)
    if not content or len(content) % size:
        raise ValueError(f"a file of {len(content)} bytes doesn't hold rows of {size}")
    return np.frombuffer(content, np.uint8).reshape(-1, size)
