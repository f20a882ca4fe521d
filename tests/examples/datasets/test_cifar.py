"""CIFAR-10 and CIFAR-100, of small archives like the published ones."""

import io
import sys
import tarfile

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds

from examples.datasets import cifar
from examples.datasets.tfds import DatasetError
from examples.runner.data import Task
from tests.helpers import serving

# Of each file to train on and to test on.
SIZES = {"cifar10": (12, 15), "cifar100": (110, 120)}
# In the archives' words: CIFAR-100's second label is the one that counts.
LABELS = {"cifar10": [10], "cifar100": [20, 100]}


@pytest.fixture(autouse=True)
def without_tensorflow():
    yield
    assert "tensorflow" not in sys.modules


def info(name):
    builder = tfds.builder_cls(name)
    return builder._cifar_info.fget(builder)


def write_archive(path, of, files):
    """A published archive: names of labels, and files of bytes."""
    names = zip(of.label_files, LABELS[of.name], strict=True)
    texts = {f: "".join(f"name_{i}\n" for i in range(n)).encode() for f, n in names}
    with tarfile.open(path, "w:gz") as tar:
        for file, content in (texts | files).items():
            member = tarfile.TarInfo(of.prefix + file)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def bytes_of(images, *labels):
    """What a file holds of each image: its labels, then its red, green and blue."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    columns = [of[:, None].astype(np.uint8) for of in labels]
    return np.concatenate([*columns, planes], axis=1).tobytes()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Serves archives; of each split its images and labels, in the archive's order."""
    folder, arrays = tmp_path_factory.mktemp("published"), {}
    rng = np.random.default_rng(0)
    for name, sizes in SIZES.items():
        of, files = info(name), {}
        splits = zip(Task._fields, (of.train_files, of.test_files), sizes, strict=True)
        for split, split_files, n in splits:
            made = []
            for file in split_files:
                images = rng.integers(0, 256, (n, 32, 32, 3), np.uint8)
                labels = [rng.integers(0, count, n) for count in LABELS[name]]
                files[file] = bytes_of(images, *labels)
                made.append((images, labels[-1]))
            arrays[name, split] = [np.concatenate(x) for x in zip(*made, strict=True)]
        write_archive(folder / f"{name}.tar.gz", of, files)
    with serving(folder) as url, pytest.MonkeyPatch.context() as patch:
        for name in SIZES:
            there = info(name)._replace(url=f"{url}/{name}.tar.gz")
            builder = tfds.builder_cls(name)
            patch.setattr(builder, "_cifar_info", property(lambda _, of=there: of))
        yield arrays


@pytest.fixture(scope="module")
def prepared(published, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("prepared")
    return {name: (data_dir, cifar.load(name, data_dir)) for name in SIZES}


@pytest.mark.parametrize("name", SIZES)
def test_it_prepares_and_reads_what_is_published(published, prepared, name):
    _, task = prepared[name]
    for field, split in task._asdict().items():
        images, labels = published[name, field]
        assert split.inputs.shape == (len(labels), 32, 32, 3)
        assert (split.inputs.dtype, split.labels.dtype) == (np.uint8, np.int32)
        # TFDS stores the examples in an order of its own.
        assert pairs(split.inputs, split.labels) == pairs(images, labels)
        assert not np.array_equal(split.inputs, images)


@pytest.mark.parametrize("name", SIZES)
def test_it_is_read_when_needed_as_it_is_at_once(prepared, name):
    data_dir, task = prepared[name]
    for stored, split in zip(cifar.load_stored(name, data_dir), task, strict=True):
        np.testing.assert_array_equal(stored.inputs[:], split.inputs)
        np.testing.assert_array_equal(stored.labels, split.labels)


def pairs(images, labels):
    return sorted((i.tobytes(), int(n)) for i, n in zip(images, labels, strict=True))


@pytest.mark.parametrize("name", SIZES)
def test_what_was_prepared_is_as_tfds_reads_and_would_prepare_it(prepared, name):
    data_dir, task = prepared[name]
    of = info(name)
    for field, split in task._asdict().items():
        source = tfds.data_source(name, split=field, data_dir=data_dir, download=False)
        examples = list(source)
        np.testing.assert_array_equal(split.inputs, [x["image"] for x in examples])
        np.testing.assert_array_equal(split.labels, [x["label"] for x in examples])
        ids = sorted(x["id"].decode() for x in examples)
        assert ids == [f"{field}_{i:05d}" for i in range(len(examples))]
    features = tfds.builder_from_directory(data_dir / name / "3.0.2").info.features
    assert set(features) == {"id", "image", *of.label_keys}
    for key, count in zip(of.label_keys, LABELS[name], strict=True):
        assert features[key].names == [f"name_{i}" for i in range(count)]


def test_it_reads_again_without_a_network(prepared, monkeypatch):
    def refuse(*args, **kwargs):
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "head", refuse)
    data_dir, first = prepared["cifar10"]
    again = cifar.load("cifar10", data_dir)
    np.testing.assert_array_equal(again.train.inputs, first.train.inputs)
    with pytest.raises(DatasetError, match="no network") as error:
        cifar.load("cifar10", data_dir / "empty")
    where = data_dir / "empty" / "cifar10" / "3.0.2" / "dataset_info.json"
    assert str(where) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes(3 * 3073 - 1), "a file of 9218 bytes doesn't hold rows of 3073"),
        (b"", "a file of 0 bytes"),
        (None, "not found"),
    ],
)
def test_an_archive_of_another_form_is_named(published, tmp_path, content, message):
    of, path = info("cifar10"), tmp_path / "served" / "cifar10.tar.gz"
    path.parent.mkdir()
    files = {file: bytes(3073) for file in of.train_files}
    if content is not None:
        files["test_batch.bin"] = content
    write_archive(path, of, files)
    with serving(path.parent) as url, pytest.MonkeyPatch.context() as patch:
        builder = tfds.builder_cls("cifar10")
        there = of._replace(url=f"{url}/cifar10.tar.gz")
        patch.setattr(builder, "_cifar_info", property(lambda _: there))
        with pytest.raises(DatasetError, match=r"cifar10/3\.0\.2 can't be made") as e:
            cifar.load("cifar10", tmp_path / "data")
    assert message in str(e.value)
    assert not (tmp_path / "data" / "cifar10" / "3.0.2").exists()


def test_a_label_that_is_no_class_is_named(prepared, monkeypatch):
    data_dir, _ = prepared["cifar100"]
    monkeypatch.setitem(cifar.CLASSES, "cifar100", 50)
    with pytest.raises(DatasetError, match=r"train, record \d+: label \d+ isn't one"):
        cifar.load("cifar100", data_dir)
