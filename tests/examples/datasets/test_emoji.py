"""Emoji, of small packages like those of npm, from a program like npm."""

import io
import json
import os
import pathlib
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from examples.datasets import emoji
from examples.datasets.stream import Stream
from examples.datasets.tfds import DatasetError
from examples.runner.data import Split, Task

VENDORS = list(emoji.VENDORS)
# Ten of each group, every other one with a selector, which only the list names.
SYMBOLS = {
    f"{0x1F300 + 10 * number + i:X}" + "-FE0F" * (i % 2): group
    for number, group in enumerate(emoji.GROUPS)
    for i in range(10)
}
OTHERS = {"1F1E6-1F1E8": "Flags", "1F3FB": "Component"}
NPM = """#!{python} -S
import pathlib, sys
command, package, *options = sys.argv[1:]
assert command == "pack" and "--ignore-scripts" in options, sys.argv
(to,) = (o.partition("=")[2] for o in options if o.startswith("--pack-destination="))
archive = pathlib.Path({served!r}, package.replace("/", "+"))
if not archive.exists():
    sys.exit("npm error code E404\\nnpm error 404 no such package")
pathlib.Path(to, "made.tgz").write_bytes(archive.read_bytes())
"""


def colour(vendor, symbol):
    """That of a vendor's picture of a symbol, unlike any other picture's."""
    return 60 * VENDORS.index(vendor), 3 * list(SYMBOLS).index(symbol), 100


def picture(rgb, side, file_format):
    """A square, with a border that shows what is behind."""
    pixels = np.zeros((side, side, 4), np.uint8)
    pixels[side // 4 : -side // 4, side // 4 : -side // 4] = (*rgb, 255)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=file_format, lossless=True)
    return file.getvalue()


def write_package(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def files_of(vendor):
    """What its package has: all symbols but one of its own, named as it names them."""
    of = emoji.VENDORS[vendor]
    is_fluent = vendor == "Fluent"
    lacking = list(SYMBOLS)[10 * VENDORS.index(vendor)]
    files = {of.folder + "readme.txt": b"no picture", "package/emoji.json": b'{"a": 1}'}
    for symbol in SYMBOLS.keys() - {lacking}:
        name = symbol.lower()
        if not is_fluent:
            name = "00" + name.replace("-fe0f", "")
        content = picture(
            colour(vendor, symbol),
            256 if is_fluent else 64,
            "webp" if is_fluent else "png",
        )
        files[f"{of.folder}{name}.{'webp' if is_fluent else 'png'}"] = content
    if vendor == "Noto":
        listed = SYMBOLS | OTHERS
        entries = [dict(unified=k, category=v) for k, v in listed.items()]
        files["package/emoji.json"] = json.dumps(entries).encode()
        files |= {f"{of.folder}{k.lower()}.png": b"" for k in OTHERS}
    return files


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The folder of packages that the only npm there is gives."""
    folder, programs = tmp_path / "served", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    npm = programs / "npm"
    npm.write_text(NPM.format(python=sys.executable, served=str(folder)))
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    for vendor, of in emoji.VENDORS.items():
        write_package(folder / of.package.replace("/", "+"), files_of(vendor))
    return folder


def test_it_makes_pictures_of_the_symbols_that_all_vendors_draw(served, tmp_path):
    task = emoji.load(tmp_path)
    shared = [s for i, s in enumerate(SYMBOLS) if i not in (0, 10, 20, 30)]
    seen = []
    for split in task:
        assert split.inputs.shape == (len(split.labels), 4, 32, 32, 3)
        assert (split.inputs.dtype, split.labels.dtype) == (np.uint8, np.int32)
        assert np.all(split.inputs[:, :, 0, 0] == 255)  # On white.
        for pictures, label in zip(split.inputs, split.labels, strict=True):
            symbol = list(SYMBOLS)[pictures[0, 16, 16, 1] // 3]
            assert SYMBOLS[symbol] == emoji.GROUPS[label]
            expected = [colour(vendor, symbol) for vendor in VENDORS]
            np.testing.assert_array_equal(pictures[:, 16, 16], expected)
            seen.append(symbol)
    assert sorted(seen) == sorted(shared)
    assert seen != shared and task.train.labels.tolist() != sorted(task.train.labels)
    # A fifth of ten, or of nine where a vendor lacks one, rounded down.
    np.testing.assert_array_equal(np.bincount(task.test.labels), [1] * 4 + [2] * 4)


def test_what_was_made_is_read_again_without_npm(served, tmp_path, monkeypatch):
    first = emoji.load(tmp_path)
    (file,) = (path for path in (tmp_path / "emoji").rglob("*") if path.is_file())
    monkeypatch.setenv("PATH", "")
    for one, two in zip(first, emoji.load(tmp_path), strict=True):
        np.testing.assert_array_equal(one.inputs, two.inputs)
        np.testing.assert_array_equal(one.labels, two.labels)
    content = file.read_bytes()
    for damaged in (b"", content[: len(content) // 2], content.replace(b"npy", b"np_")):
        file.write_bytes(damaged)
        with pytest.raises(DatasetError, match="delete it, and it will") as error:
            emoji.load(tmp_path)
        assert str(file) in str(error.value)
    file.unlink()
    with pytest.raises(DatasetError, match=r"there is no npm to make it.*Node\.js"):
        emoji.load(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (dict(pictures=np.zeros((3, 4, 32, 32), np.uint8)), "pictures are uint8"),
        (dict(pictures=np.zeros((3, 4, 32, 32, 3))), "pictures are float64"),
        (dict(pictures=np.zeros((2, 4, 32, 32, 3), np.uint8)), r"\(2, 4, 32, 32, 3\)"),
        (dict(labels=np.array([0, 8, 1])), "label 8 isn't one of 8"),
        (dict(labels=np.array([None] * 3)), "allow_pickle"),
    ],
)
def test_a_file_of_other_arrays_is_named(tmp_path, arrays, message):
    good = dict(pictures=np.zeros((3, 4, 32, 32, 3), np.uint8), labels=np.arange(3))
    file = tmp_path / "emoji" / "1.0.0" / "pictures.npz"
    file.parent.mkdir(parents=True)
    np.savez(file, **good)
    assert len(emoji.load(tmp_path).train.labels) == 3
    np.savez(file, **good | arrays)
    with pytest.raises(DatasetError, match=message):
        emoji.load(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            pathlib.Path.unlink,
            "ended with 1: npm error code E404 npm error 404 no such",
        ),
        (lambda path: path.write_bytes(b"no archive"), "could not be opened"),
        (
            lambda path: write_package(
                path, dict.fromkeys(files_of("Twemoji"), b"no picture")
            ),
            "cannot identify image file",
        ),
    ],
)
def test_a_package_that_cannot_be_used_is_named(served, tmp_path, damage, message):
    damage(served / emoji.VENDORS["Twemoji"].package)
    with pytest.raises(DatasetError, match=r"pictures\.npz can't be made") as error:
        emoji.load(tmp_path)
    assert message in str(error.value)
    # Nothing of the downloads stays, and nothing that looks made.
    assert os.listdir(tmp_path / "emoji" / "1.0.0") == []


def test_each_task_has_the_same_symbols_of_another_vendor():
    pictures = np.zeros((10, 4, 32, 32, 3), np.uint8)
    # The first pixel says whose it is, the second one which symbol.
    pictures[:, :, 0, 0, 0] = np.arange(4)
    pictures[:, :, 0, 1, 0] = np.arange(10)[:, None]
    labels = np.arange(10, dtype=np.int32) % 8
    whole = Task(Split(pictures[:7], labels[:7]), Split(pictures[7:], labels[7:]))
    orders = []
    for seed in range(3):
        of = Stream("emoji", "domain", 4, seed)
        assert (of.outputs, of.chance, of.heads) == (8, 1 / 8, None)
        tasks = of.of(whole)
        for task in tasks.values():
            for split, of_whole in zip(task, whole, strict=True):
                assert split.inputs.shape[1:] == of.definition.shape
                symbols = of_whole.inputs[:, 0, 0, 1, 0]
                np.testing.assert_array_equal(split.inputs[:, 0, 1, 0], symbols)
                np.testing.assert_array_equal(split.labels, of_whole.labels)
        drawn_by = [np.unique(task.test.inputs[:, 0, 0, 0]) for task in tasks.values()]
        orders.append(np.concatenate(drawn_by).tolist())
        fewer = Stream("emoji", "domain", 2, seed).of(whole)
        assert list(fewer) == ["task_1", "task_2"]
        np.testing.assert_array_equal(fewer["task_2"].test[0], tasks["task_2"].test[0])
    assert orders[0] == [0, 1, 2, 3]
    assert all(sorted(order) == orders[0] for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_of_the_same_symbols_validation_holds_out_a_tenth():
    labels = np.arange(20, dtype=np.int32) % 8
    pictures = np.zeros((20, 4, 32, 32, 3), np.uint8)
    pictures[:, :, 0, 0, 0] = np.arange(20)[:, None]
    split = Split(pictures, labels)
    made = Stream("emoji", "domain", 4, validation=True).of(Task(split, split))
    for task in made.values():
        assert task.test.inputs[:, 0, 0, 0].tolist() == [18, 19]
        assert task.train.inputs[:, 0, 0, 0].tolist() == list(range(18))


def test_a_split_stream_has_two_groups_a_task_by_all_vendors(monkeypatch):
    labels = np.random.default_rng(0).permutation(np.arange(240) % 8).astype(np.int32)
    pictures = np.zeros((240, 4, 32, 32, 3), np.uint8)
    pictures[:, :, 0, 0, 0] = np.arange(4)
    pictures[:, :, 0, 1, 0] = np.arange(240)[:, None]
    parts = [Split(pictures[of], labels[of]) for of in (slice(200), slice(200, 240))]
    monkeypatch.setattr(emoji, "load", lambda folder: Task(*parts))
    of = Stream("split_emoji", "class", 4, validation=True)
    seen = []
    for number, task in enumerate(of.load().values()):
        for split in task:
            drawn_by, symbols = split.inputs[:, 0, :2, 0].T
            assert {of.tasks_of_classes[label] for label in split.labels} == {number}
            np.testing.assert_array_equal(split.labels, labels[symbols])
            pairs = zip(symbols.tolist(), drawn_by.tolist(), strict=True)
            seen += pairs
    assert sorted(seen) == [
        (symbol, vendor) for symbol in range(200) for vendor in range(4)
    ]


def test_real_data():
    data_dir = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "absent"))
    if not (data_dir / "emoji").is_dir():
        pytest.skip("set TFDS_DATA_DIR to a folder with emoji")
    train, test = emoji.load(data_dir)
    readme = (pathlib.Path(emoji.__file__).parents[1] / "streams/README.md").read_text()
    said = " ".join(readme.split())
    assert (
        f"{len(train.labels)} images to train on and {len(test.labels)} to test" in said
    )
    assert f"the same {len(train.labels) + len(test.labels):,} symbols" in said
    assert len(np.unique(train.labels)) == len(np.unique(test.labels)) == 8
    pictures = np.concatenate([train.inputs, test.inputs])
    # Every vendor draws in colour, and no two draw most symbols alike.
    for i in range(4):
        assert np.mean(np.ptp(pictures[:, i], axis=-1) > 30) > 0.1
        for j in range(i):
            apart = np.abs(pictures[:, i].astype(int) - pictures[:, j]).mean((1, 2, 3))
            assert np.mean(apart > 10) > 0.9
