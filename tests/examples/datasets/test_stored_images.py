"""Images that stay in TFDS's files until they're needed."""

import sys

import numpy as np
import pytest

from examples.datasets import mnist
from examples.datasets.images import as_png, read_images, stored_images
from examples.datasets.stream import benchmarks
from examples.datasets.tfds import DatasetError
from examples.runner import rows
from examples.streams import __main__ as streams
from tests.examples.datasets.test_mnist import prepare
from tests.examples.datasets.test_stream import stream, whole
from tests.examples.helpers import assert_names_what_is_wrong, without_times

FORM = (28, 28, 1), 10


@pytest.fixture(autouse=True)
def without_tensorflow():
    yield
    assert "tensorflow" not in sys.modules


def encoded(split):
    images = (as_png(image[..., 0]).getvalue() for image in split.inputs)
    return list(zip(images, split.labels.tolist(), strict=True))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """TFDS's folder of data sets, with a small MNIST."""
    folder = tmp_path_factory.mktemp("data")
    prepare(folder, *map(encoded, whole()))
    return folder


def test_what_is_indexed_is_what_would_have_been_read(data_dir):
    folder = data_dir / "mnist" / "3.0.1"
    for split in ("train", "test"):
        expected = read_images(folder, split, *FORM)
        stored = stored_images(folder, split, *FORM)
        np.testing.assert_array_equal(stored.labels, expected.labels)
        assert stored.inputs.shape == expected.inputs.shape
        which = np.array([7, 0, 7, 19, 3])
        np.testing.assert_array_equal(stored.inputs[which], expected.inputs[which])
        np.testing.assert_array_equal(stored.inputs[:], expected.inputs)
        assert stored.inputs[which[:0]].shape == (0, 28, 28, 1)


def test_an_image_of_another_form_is_named_when_it_is_read(tmp_path):
    examples = [(as_png(np.zeros(n, np.uint8)).getvalue(), 0) for n in [(28, 28)] * 3]
    examples[1] = (as_png(np.zeros((14, 14), np.uint8)).getvalue(), 0)
    folder = prepare(tmp_path, examples)
    stored = stored_images(folder, "train", *FORM)
    with pytest.raises(DatasetError, match=r"record \d: image of uint8 \(14, 14\)"):
        stored.inputs[:]


def test_a_label_that_is_no_class_is_named_at_once(data_dir):
    with pytest.raises(DatasetError, match=r"train, record \d+: label \d isn't one"):
        stored_images(data_dir / "mnist" / "3.0.1", "train", (28, 28, 1), 5)


def test_without_grain_the_extra_is_named(data_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(DatasetError, match=r"'\.\[experiments\]'"):
        mnist.load_stored(data_dir, ["mnist"])


OF_MNIST = [
    ("permuted_mnist", None, False),
    ("permuted_mnist_long", None, False),
    ("rotated_mnist", None, True),
    ("split_mnist", "domain", False),
    ("split_mnist", "class", True),
]


@pytest.mark.parametrize(("benchmark", "scenario", "validation"), OF_MNIST)
def test_a_stream_has_the_same_tasks(data_dir, benchmark, scenario, validation):
    of = stream(benchmark, scenario, tasks=3, seed=1, validation=validation)
    expected, stored = of.load(data_dir), of.load(data_dir, stored=True)
    assert list(stored) == list(expected)
    for task, other in zip(stored.values(), expected.values(), strict=True):
        for split, there in zip(task, other, strict=True):
            np.testing.assert_array_equal(split.inputs[:], there.inputs)
            np.testing.assert_array_equal(split.labels, there.labels)


def test_the_command_writes_the_same_rows(data_dir, tmp_path):
    options = ["--benchmark", "split_mnist", "--tasks", "2", "--seeds", "1"]
    options += ["--batch-size", "9", "--data-dir", str(data_dir)]
    methods = ["--methods", "classp_0.1", "replay_0.1"]
    for name, more in {"memory": [], "disk": ["--from-disk"]}.items():
        out = ["--out", str(tmp_path / name)]
        streams.main([*options, *methods, *more, *out])
    memory, disk = (
        [without_times(row) for row in rows.read(tmp_path / name / "rows.jsonl")]
        for name in ("memory", "disk")
    )
    assert len(memory) == 2
    assert disk == memory


def test_a_record_that_is_damaged_later_is_one_clear_line(tmp_path, capsys):
    train, test = whole()
    examples = encoded(train)
    examples[5] = (b"no image", 0)
    prepare(tmp_path, examples, encoded(test))
    options = ["--seeds", "1", "--batch-size", "16", "--methods", "sgd_0.1"]
    options += ["--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as info:
        streams.main([*options, "--from-disk"])
    assert info.value.code == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "can't be read (train, record" in said and "cannot identify image" in said


def test_what_is_always_in_memory_is_named(capsys, tmp_path):
    able = [name for name, of in benchmarks().items() if of.load_stored]
    assert {"split_cifar10", "split_cifar100", "split_fashion_mnist"} < {*able}
    message = f"emoji is always in memory; from the disk are {', '.join(able)}"
    arguments = "--benchmark emoji --from-disk"
    assert_names_what_is_wrong(streams, arguments, message, capsys, tmp_path)
