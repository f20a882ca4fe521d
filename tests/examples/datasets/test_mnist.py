import gzip
import io
import json
import os
import pathlib
import random
import shutil
import struct
import sys

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from PIL import Image

from examples.datasets import mnist as mnist_data
from examples.datasets.mnist import load, normalise
from examples.datasets.tfds import DatasetError, make
from examples.runner.data import Task
from tests.helpers import serving

# By the names of the published files. Of different sizes, to tell one from the other.
SIZES = {
    "mnist": {"train": 30, "t10k": 20},
    "fashion_mnist": {"train": 25, "t10k": 15},
}


@pytest.fixture(autouse=True)
def without_tensorflow():
    yield
    assert "tensorflow" not in sys.modules


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Serves small files like the published ones; images and labels by their name."""
    folder, arrays = tmp_path_factory.mktemp("published"), {}
    rng = np.random.default_rng(0)
    for name, sizes in SIZES.items():
        (folder / name).mkdir()
        for part, n in sizes.items():
            images = rng.integers(0, 256, (n, 28, 28), np.uint8)
            labels = rng.integers(0, 10, n, np.uint8)
            arrays[name, part] = images, labels
            for file, magic, array in (
                ("images-idx3", 2051, images),
                ("labels-idx1", 2049, labels),
            ):
                header = struct.pack(f">{1 + array.ndim}I", magic, *array.shape)
                (folder / name / f"{part}-{file}-ubyte.gz").write_bytes(
                    gzip.compress(header + array.tobytes())
                )
    with serving(folder) as url, pytest.MonkeyPatch.context() as patch:
        for name in SIZES:
            patch.setattr(tfds.builder_cls(name), "URL", f"{url}/{name}/")
        yield arrays


@pytest.fixture(scope="module")
def prepared(published, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("prepared")
    load(data_dir)
    return data_dir


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise requests.ConnectionError("no network")

    def download(*args, **kwargs):
        pytest.fail("TFDS would try for minutes")

    monkeypatch.setattr(requests, "head", refuse)
    monkeypatch.setattr(
        tfds.core.GeneratorBasedBuilder, "download_and_prepare", download
    )


def test_load_prepares_and_reads_what_is_published(published, tmp_path):
    data = load(tmp_path)
    for name, task in data.items():
        for part, split in zip(("train", "t10k"), task, strict=True):
            images, labels = published[name, part]
            assert split.inputs.shape == (len(labels), 28, 28, 1)
            assert (split.inputs.dtype, split.labels.dtype) == (np.uint8, np.int32)
            assert _pairs(split.inputs, split.labels) == _pairs(images, labels)


def _pairs(images, labels):
    # TFDS stores the examples in an order of its own.
    return sorted((i.tobytes(), int(n)) for i, n in zip(images, labels, strict=True))


def test_prepared_data_is_read_as_tfds_reads_it(prepared, offline):
    data = load(prepared)
    for name in data:
        for part in Task._fields:
            source = tfds.data_source(
                name, split=part, data_dir=prepared, download=False
            )
            split = getattr(data[name], part)
            np.testing.assert_array_equal(split.inputs, [x["image"] for x in source])
            np.testing.assert_array_equal(split.labels, [x["label"] for x in source])


def test_offline_says_what_to_put_where(offline, tmp_path):
    with pytest.raises(DatasetError) as info:
        load(tmp_path)
    assert "no network" in str(info.value)
    assert str(tmp_path / "mnist" / "3.0.1" / "dataset_info.json") in str(info.value)
    assert not list(tmp_path.iterdir())


def test_a_failed_download_and_an_unwritable_folder_are_named(
    published, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="can't be made"):
        load(tmp_path / "file")
    mnist = tfds.builder_cls("mnist")
    monkeypatch.setattr(mnist, "URL", mnist.URL + "absent/")
    with pytest.raises(DatasetError, match=r"can't be made.*404"):
        load(tmp_path)


def _cut(path):
    # At this length the records look like an empty file's.
    path.write_bytes(path.read_bytes()[: 2**16])


def _resized(size):
    def resize(path):
        text = path.read_text()
        assert text.count('"30"') == 1
        path.write_text(text.replace('"30"', f'"{size}"'))

    return resize


def _swap(path):
    shutil.copy(path.with_name("mnist-test.array_record-00000-of-00001"), path)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("dataset_info.json", pathlib.Path.unlink, "dataset_info.json"),
        ("dataset_info.json", lambda path: path.write_text("{"), "JSON"),
        ("features.json", pathlib.Path.unlink, "Cannot restore"),
        ("mnist-test.array_record-00000-of-00001", pathlib.Path.unlink, "open"),
        ("mnist-test.array_record-00000-of-00001", _cut, "has 0 records, not 20"),
        ("mnist-train.array_record-00000-of-00001", _swap, "has 20 records, not 30"),
        ("dataset_info.json", _resized(25), "has 30 records, not 25"),
        ("dataset_info.json", _resized(31), "has 30 records, not 31"),
        ("dataset_info.json", _resized(0), "can not be of 0 length"),
        ("dataset_info.json", _resized(-1), "-1"),
        ("dataset_info.json", _resized("many"), "many"),
        ("features.json", lambda path: path.write_text("[]"), "its metadata"),
        (
            "mnist-train.array_record-00000-of-00001",
            lambda path: path.write_bytes(b"\xff" * 2**17),
            "Riegeli",
        ),
    ],
)
def test_a_damaged_folder_is_named(prepared, offline, tmp_path, file, damage, message):
    folder = shutil.copytree(prepared, tmp_path / "data") / "mnist" / "3.0.1"
    damage(folder / file)
    with pytest.raises(DatasetError, match=message) as info:
        load(tmp_path / "data")
    assert str(info.value).startswith(f"{folder} can't be read")


@pytest.mark.parametrize(
    "faults", [20, pytest.param(1000, marks=pytest.mark.slow)], ids=str
)
def test_flipped_bits_and_cuts_never_make_other_data(
    prepared, offline, tmp_path, faults
):
    folder = shutil.copytree(prepared / "mnist" / "3.0.1", tmp_path / "data")
    expected = mnist_data._read(folder, "train")
    shard = folder / "mnist-train.array_record-00000-of-00001"
    content = shard.read_bytes()
    used = len(content.rstrip(b"\0"))  # Blocks of 64 KiB, the last one padded.
    rng, refused = random.Random(0), 0
    for fault in range(faults):
        damaged = bytearray(content)
        if fault % 4 == 0:
            del damaged[rng.randrange(len(content)) :]
        else:
            damaged[rng.randrange(used)] ^= 1 << rng.randrange(8)
        shard.write_bytes(damaged)
        try:
            actual = mnist_data._read(folder, "train")
        except DatasetError as error:
            refused += 1
            assert str(folder) in str(error) and "train" in str(error)
        else:
            np.testing.assert_array_equal(actual.inputs, expected.inputs)
            np.testing.assert_array_equal(actual.labels, expected.labels)
    print(f"{faults} faults: {refused} refused, the others in padding")
    assert refused > faults / 3


def prepare(data_dir, examples, held_out=(), classes=10):
    """MNIST's folder with certain encoded images and labels to train and test on."""
    splits = {"train": examples} | ({"test": held_out} if held_out else {})
    tfds_builder = mnist_data._builder_class("mnist")

    class Builder(tfds_builder, skip_registration=True):
        name = tfds_builder.name

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(28, 28, 1)),
                "label": tfds.features.ClassLabel(num_classes=classes),
            }
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(of) for split, of in splits.items()}

        def _generate_examples(self, examples):
            for key, (image, label) in enumerate(examples):
                yield key, {"image": io.BytesIO(image), "label": label}

    return make(Builder, data_dir, data_dir / "mnist" / "3.0.1")


def png(shape=(28, 28), mode="L"):
    file = io.BytesIO()
    Image.fromarray(np.zeros(shape, np.uint8), mode).save(file, format="png")
    return file.getvalue()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ((png((14, 14)), 0), "image of uint8 (14, 14)"),
        ((png((28, 28, 3), "RGB"), 0), "image of uint8 (28, 28, 3)"),
        ((png()[:40], 0), "record"),
        ((b"no image", 0), "cannot identify image file"),
        ((png(), 17), "label 17 isn't one of 10"),
        ((png(), -1), "label -1 isn't one of 10"),
    ],
)
def test_a_bad_record_is_named(tmp_path, bad, message):
    folder = prepare(tmp_path, [(png(), 9), bad, (png(), 1)], classes=20)
    with pytest.raises(DatasetError) as info:
        mnist_data._read(folder, "train")
    assert str(folder) in str(info.value) and "train, record " in str(info.value)
    assert message in str(info.value)


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("images", lambda content: content[:-1]),
        ("images", lambda content: content[:10]),
        ("images", lambda content: content.replace(b"\0\0\0\x1c", b"\0\0\0\x0e")),
        ("images", lambda content: b"\0\0\x0d\3" + content[4:]),
        ("labels", lambda content: content + b"\1"),
        ("labels", lambda content: content[:7] + b"\2" + content[8:10]),
    ],
)
def test_a_published_file_of_another_shape_is_named(tmp_path, part, damage):
    content = {
        "images": struct.pack(">4I", 2051, 3, 28, 28) + bytes(3 * 28 * 28),
        "labels": struct.pack(">2I", 2049, 3) + bytes(3),
    }
    files = {name: tmp_path / f"{name}.gz" for name in content}
    for name, file in files.items():
        of_file = damage(content[name]) if name == part else content[name]
        file.write_bytes(gzip.compress(of_file))
    with pytest.raises(ValueError) as info:
        builder = mnist_data._builder_class("mnist")(data_dir=tmp_path)
        list(builder._generate_examples(files["images"], files["labels"]))
    assert str(files[part]) in str(info.value)


def test_an_interrupted_preparation_is_begun_again(published, tmp_path, monkeypatch):
    made, fromarray = [], Image.fromarray

    def interrupted(array):
        made.append(array)
        if len(made) == 40:  # The 10th that is held out.
            raise KeyboardInterrupt
        return fromarray(array)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Image, "fromarray", interrupted)
        load(tmp_path)
    assert not (tmp_path / "mnist" / "3.0.1").exists()
    for name, task in load(tmp_path).items():
        for part, split in zip(("train", "t10k"), task, strict=True):
            assert _pairs(split.inputs, split.labels) == _pairs(*published[name, part])


def test_a_data_folder_runs_nothing(prepared, offline, tmp_path, monkeypatch):
    """TFDS imports the module of any feature that features.json names."""
    marker = tmp_path / "ran"
    code = f"import pathlib; pathlib.Path({str(marker)!r}).touch()"
    data_dir = shutil.copytree(prepared, tmp_path / "data")
    folder = data_dir / "mnist" / "3.0.1"
    for name in ("evil", "mnist", "__init__", "sitecustomize", "conftest"):
        (folder / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(folder)  # Where a user stands in it, or on purpose.
    info_file = folder / "dataset_info.json"
    info = json.loads(info_file.read_text())
    assert info["moduleName"]
    info_file.write_text(json.dumps(info | {"moduleName": "evil"}))
    load(data_dir)
    features = folder / "features.json"
    text = features.read_text()
    own = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"
    assert own in text
    features.write_text(text.replace(own, "evil.ClassLabel"))
    with pytest.raises(DatasetError, match="names evil.ClassLabel, no feature"):
        load(data_dir)
    assert not marker.exists()


def test_nothing_is_unpickled(prepared, offline):
    loads = []

    def hook(event, arguments):
        if event == "pickle.find_class" and loads is not None:
            loads.append(arguments)

    sys.addaudithook(hook)
    load(prepared)
    found, loads = loads, None
    assert found == []


def test_a_format_that_needs_tensorflow_is_named(prepared, offline, tmp_path):
    data_dir = shutil.copytree(prepared, tmp_path / "data")
    info_file = data_dir / "fashion_mnist" / "3.0.1" / "dataset_info.json"
    info_file.write_text(info_file.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DatasetError, match="is in tfrecord format"):
        load(data_dir)


def test_without_tfds_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DatasetError, match=r"'\.\[experiments\]'"):
        load(tmp_path)


def test_normalise():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    result = normalise(images)
    assert (result.shape, result.dtype) == (images.shape, np.float32)
    expected = (images.astype(np.float64) / 255 - 0.1307) / 0.3081
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_real_data():
    data_dir = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "absent"))
    if not all((data_dir / name).is_dir() for name in SIZES):
        pytest.skip("set TFDS_DATA_DIR to a folder with mnist and fashion_mnist")
    data = load(data_dir)
    for task in data.values():
        assert task.train.inputs.shape == (60_000, 28, 28, 1)
        assert task.test.inputs.shape == (10_000, 28, 28, 1)
    mnist, fashion = data.values()
    np.testing.assert_array_equal(mnist.train.labels[:5], [4, 1, 0, 7, 8])
    np.testing.assert_array_equal(mnist.test.labels[:5], [2, 0, 4, 8, 7])
    digits = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(np.bincount(mnist.test.labels), digits)
    np.testing.assert_array_equal(np.bincount(fashion.train.labels), [6000] * 10)
    np.testing.assert_array_equal(np.bincount(fashion.test.labels), [1000] * 10)
    # The mean and deviation are those of the digits to train on.
    normalised = normalise(mnist.train.inputs)
    np.testing.assert_allclose(normalised.mean(), 0, atol=1e-3)
    np.testing.assert_allclose(normalised.std(), 1, atol=1e-3)
