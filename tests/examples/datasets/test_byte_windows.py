"""Texts as windows of bytes."""

import re

import numpy as np
import pytest

from examples.datasets.byte_windows import load

CONTEXT = 16


@pytest.fixture
def text(tmp_path):
    """A file of 2,003 random bytes, and them."""
    content = np.random.default_rng(0).integers(0, 256, 2003).astype(np.uint8)
    path = tmp_path / "a text.txt"
    path.write_bytes(content.tobytes())
    return path, content


def test_windows_stand_one_behind_the_other_before_what_is_held_out(text):
    path, content = text
    parts = content[:1803], content[1803:1903], content[1903:]
    tested, validated = (
        load({"x": path}, CONTEXT, validation=validation)["x"]
        for validation in (False, True)
    )
    for split, part in (
        (tested.train, parts[0]),
        (validated.train, parts[0]),
        (validated.test, parts[1]),
        (tested.test, parts[2]),
    ):
        count = (len(part) - 1) // CONTEXT
        assert split.inputs.dtype == np.uint8 and split.labels.dtype == np.int32
        np.testing.assert_array_equal(split.inputs.ravel(), part[: count * CONTEXT])
        np.testing.assert_array_equal(
            split.labels.ravel(), part[1 : count * CONTEXT + 1]
        )
        assert split.inputs.shape == (count, CONTEXT)


def test_most_takes_the_first_bytes_to_train_on_and_leaves_the_test(text):
    path, content = text
    paths = dict.fromkeys("xyz", path)
    few, whole = (load(paths, CONTEXT, most) for most in ((200, 100), None))
    for name, windows in dict(x=12, y=6, z=6).items():
        np.testing.assert_array_equal(
            few[name].train.inputs.ravel(), content[: windows * CONTEXT]
        )
        np.testing.assert_array_equal(few[name].test.inputs, whole[name].test.inputs)


@pytest.mark.parametrize(
    ("length", "most", "message"),
    [
        (300, None, "has 300 bytes, but 5% must be above the context, 16: it takes"),
        (0, None, "has 0 bytes"),
        (2003, (16, 16), "the 16 bytes to train on must be more than the context, 16"),
    ],
)
def test_too_short_a_text_is_named(length, most, message, text):
    path, content = text
    path.write_bytes(content[:length].tobytes())
    with pytest.raises(ValueError, match=f"x: .*{re.escape(message)}"):
        load({"x": path}, CONTEXT, most)


def test_the_length_that_it_says_it_takes_is_enough(text):
    path, content = text
    path.write_bytes(b"")
    with pytest.raises(ValueError) as info:
        load({"x": path}, CONTEXT)
    needed = int(re.search(r"takes ([\d,]+)", str(info.value))[1].replace(",", ""))
    path.write_bytes(content[:needed].tobytes())
    task = load({"x": path}, CONTEXT)["x"]
    assert len(task.test.labels) == 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        load({"x": tmp_path / "nowhere"}, CONTEXT)
