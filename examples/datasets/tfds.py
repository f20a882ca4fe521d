"""Data sets of TensorFlow Datasets (TFDS), prepared and read without TensorFlow."""

import contextlib
import importlib
import json
import pathlib
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

from tqdm import tqdm

_CHUNK = 1000


class DatasetError(Exception):
    """A data set that cannot be had; the message tells the user what to do."""


def import_tfds() -> ModuleType:
    """``tensorflow_datasets``, as :func:`import_extra` does."""
    return import_extra("tensorflow_datasets")


def import_extra(name: str) -> ModuleType:
    """A package that only the experiments need and that takes a second.

    Raises:
      DatasetError: it isn't installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DatasetError(
            f"{error}; the experiments need pip install '.[experiments]'"
        ) from error


def prepare(
    name: str, data_dir: pathlib.Path | None, builder_class: type[Any]
) -> pathlib.Path:
    """The folder of a data set, downloaded and prepared where it isn't there yet.

    Args:
      name: of the data set, its configuration if any, and its version, as in
        ``imdb_reviews/plain_text/1.0.0``.
      data_dir: TFDS's folder of data sets; None for TFDS's own default,
        ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.
      builder_class: a ``tfds.core.GeneratorBasedBuilder`` of that name that works
        without TensorFlow. Its ``URL`` is asked first whether there is a network.

    Raises:
      DatasetError: it isn't there, and can't be downloaded or written.
    """
    data_dir = folder_of_data_sets(data_dir)
    folder = data_dir / name
    if folder.exists():
        return folder
    # TFDS itself would try for minutes.
    if reason := _unreachable(builder_class.URL):
        raise DatasetError(
            f"{folder} isn't there, and {builder_class.URL} can't be reached to make it"
            f" ({reason}). Where there is a network, the same command makes it; copy it"
            f" here so that {folder / 'dataset_info.json'} is in place, or name the"
            " folder of data sets that holds it."
        )
    return make(builder_class, data_dir, folder)


def folder_of_data_sets(data_dir: pathlib.Path | str | None) -> pathlib.Path:
    """The folder named, or TFDS's own."""
    folder = pathlib.Path(data_dir or import_tfds().core.constants.DATA_DIR)
    try:
        return folder.expanduser()
    except RuntimeError as error:  # Of ~ and the name of nobody.
        raise DatasetError(f"{folder}: {error}") from error


def make(
    builder_class: type[Any], data_dir: pathlib.Path, folder: pathlib.Path
) -> pathlib.Path:
    """Prepares a data set.

    Args:
      builder_class: a ``tfds.core.GeneratorBasedBuilder``.
      data_dir: TFDS's folder of data sets.
      folder: that of this one there, for the message.

    Returns:
      The folder.

    Raises:
      DatasetError: it can't be made.
    """
    try:
        builder = builder_class(data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare()
    except Exception as error:  # TFDS passes on what any of its libraries raises.
        raise DatasetError(f"{folder} can't be made: {error}") from error
    return folder


def _unreachable(url: str, seconds: float = 5.0) -> BaseException | None:
    """Why a server doesn't answer; None if it does."""
    import requests  # As TFDS does, so that the same proxies hold.

    reasons = queue.SimpleQueue[BaseException | None]()

    def ask() -> None:
        reason: BaseException | None = None
        try:
            response = requests.head(url, timeout=seconds)
            if response.status_code >= 500:  # A proxy without a network, too.
                response.raise_for_status()
        except requests.RequestException as error:
            reason = error
            while reason.__context__:  # The first of a chain is the shortest.
                reason = reason.__context__
        reasons.put(reason)

    # A thread, because the timeout of requests leaves out the look-up of the name.
    threading.Thread(target=ask, daemon=True).start()
    try:
        return reasons.get(timeout=seconds)
    except queue.Empty:
        return TimeoutError(f"no answer in {seconds:g} seconds")


def read(folder: pathlib.Path, split: str) -> Iterator[dict[str, Any]]:
    """The examples of a split in TFDS's order, with a progress bar.

    Args:
      folder: of a prepared data set, as :func:`prepare` returns it.
      split: ``train`` or ``test``.

    Yields:
      A dictionary by feature: an integer for a label, bytes for a text and, still
      encoded, for an image.

    Raises:
      DatasetError: the folder is damaged or in a format that needs TensorFlow.
    """
    records = Records(folder, split)
    with tqdm(
        total=len(records),
        desc=f"Reading {records.name}, {split}",
        unit="example",
        disable=None,
    ) as bar:
        for start in range(0, len(records), _CHUNK):
            chunk = range(start, min(start + _CHUNK, len(records)))
            yield from records.read(chunk)
            bar.update(len(chunk))


class Records:
    """The examples of a split, read by their numbers, by several threads at once.

    Args:
      folder: of a prepared data set, as :func:`prepare` returns it.
      split: ``train`` or ``test``.

    Raises:
      DatasetError: the folder is damaged or in a format that needs TensorFlow.
    """

    def __init__(self, folder: pathlib.Path, split: str):
        tfds = import_tfds()
        self._folder, self._split = folder, split
        where = "its metadata"
        try:
            _check_features(folder / "features.json")
            builder = tfds.builder_from_directory(folder)
            self._source = builder.as_data_source(
                split,
                decoders={
                    key: tfds.decode.SkipDecoding()
                    for key, feature in builder.info.features.items()
                    if isinstance(feature, tfds.features.Image)
                },
            )
            self.name: str = builder.info.name
            where = split
            _check_sizes(builder.info.splits[split])
        except NotImplementedError as error:
            raise DatasetError(
                f"{folder} is in {builder.info.file_format.value} format, which"
                " TensorFlow alone reads; name another folder of data sets, and it will"
                " be made there as array_record."
            ) from error
        except Exception as error:  # TFDS passes on what any of its libraries raises.
            raise _damaged(folder, where, error) from error

    def __len__(self) -> int:
        return len(self._source)

    def read(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Examples as :func:`read` yields them, of some records, at least one.

        Raises:
          DatasetError: one is damaged.
        """
        try:
            found: list[dict[str, Any]] = self._source.__getitems__(numbers)
        except Exception as error:  # TFDS passes on what any of its libraries raises.
            where = f"{self._split}, records {min(numbers)} to {max(numbers)}"
            raise _damaged(self._folder, where, error) from error
        return found


@contextlib.contextmanager
def record(folder: pathlib.Path, split: str, number: int) -> Iterator[None]:
    """Names the record that what is within can't use.

    Args:
      folder: of the data set.
      split: of the record.
      number: of the record, from 0.

    Raises:
      DatasetError: what is within raises anything.
    """
    try:
        yield
    except Exception as error:  # Decoders raise of all kinds.
        raise _damaged(folder, f"{split}, record {number}", error) from error


def check_label(label: int, classes: int) -> None:
    """Raises a ``ValueError`` unless a label is one of so many classes."""
    if not 0 <= label < classes:
        raise ValueError(f"label {label} isn't one of {classes}")


def _damaged(folder: pathlib.Path, where: str, error: Exception) -> DatasetError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DatasetError(
        f"{folder} can't be read ({where}: {reason}). If it is damaged, delete it, and"
        " it will be made again."
    )


def _check_features(file: pathlib.Path) -> None:
    """Raises unless the features are TFDS's own: it would import any module named."""

    def names(node: Any) -> Iterator[str]:
        children: Iterable[Any] = node if isinstance(node, list) else []
        if isinstance(node, dict):
            children = node.values()
            yield from filter(None, [node.get("pythonClassName")])
        for child in children:
            yield from names(child)

    content = json.loads(file.read_text()) if file.exists() else {}
    for name in names(content):
        if not str(name).startswith("tensorflow_datasets.core.features."):
            raise ValueError(f"{file.name} names {name}, no feature of TFDS")


def _check_sizes(split: Any) -> None:
    """Raises unless every file has as many records as TFDS noted: it reads no more."""
    from array_record.python.array_record_module import ArrayRecordReader

    for file, noted in zip(split.filepaths, split.shard_lengths, strict=True):
        reader = ArrayRecordReader(str(file))
        found, reason = reader.num_records(), ""
        try:
            reader.close()  # Raises what opening it should have.
        except RuntimeError as error:
            reason = str(error)
        if found != noted:
            message = f"{file.name} has {found} records, not {noted} {reason}"
            raise ValueError(message)
