"""Results files: what a crash, another process or a newer version makes of them."""

import copy
import json
import os
import pathlib
import resource
import subprocess
import sys
import warnings

import pytest

from examples.report import page
from examples.runner import rows
from examples.runner.plan import Method, Phase, as_json
from examples.sentiment.study import STUDY as TEXTS
from examples.vision.study import STUDY

ROOT = pathlib.Path(__file__).parents[3]
METHOD = STUDY.methods["sgd"]


def row(seed=0, splits=("train", "test")):
    tasks = ("mnist", "fashion_mnist")
    accuracy = {task: {split: [0.9, 0.8] for split in splits} for task in tasks}
    result = {
        "accuracy": accuracy,
        "curve": {
            "step": [0, 10],
            "accuracy": {task: [[0.1, 0.1], [0.9, 0.8]] for task in tasks},
        },
        "epochs": 1,
        "last_loss": 0.1,
        "update_density": 1.0,
        "seconds": 1.0,
        "device": "2 cores",
        "versions": {"classp_jax": "0.1.0", "jax": "1.0"},
        "bytes_per_weight": 0.0,
        "finite": True,
    }
    return {
        "method": "sgd",
        "seed": seed,
        "settings": {"experiment": "vision", "batch_size": 32},
        "phases": as_json(METHOD.phases),
        "results": [result, copy.deepcopy(result)],
    }


@pytest.fixture
def file(tmp_path):
    return tmp_path / "new folder" / "rows.jsonl"


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_rows_come_back_in_their_order(file):
    assert rows.read(file) == []
    rows.append(file, row(0), row(2))
    rows.append(file, row(1))
    rows.append(file)
    assert rows.read(file) == [row(0), row(2), row(1)]
    assert file.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize(
    ("study", "folders"),
    [
        (STUDY, ["vision/float32", "vision/bfloat16"]),
        (TEXTS, ["text/named", "text/released", "text/words", "text/bfloat16"]),
    ],
    ids=lambda value: getattr(value, "experiment", ""),
)
def test_committed_rows_are_still_those_of_a_method(study, folders):
    for folder in folders:
        committed = rows.read(ROOT / "results/paper" / folder / "rows.jsonl")
        assert committed
        settings = {json.dumps(row["settings"]): row["settings"] for row in committed}
        found = [
            id(row)
            for of in settings.values()
            for method in study.methods.values()
            for row in rows.select(committed, method, of)
        ]
        assert set(found) == set(map(id, committed))


def test_an_argument_that_is_newer_than_a_row_is_at_its_default_there():
    def method(**hyperparameters):
        hyperparameters["learning_rate"] = 0.1
        return Method("CLASSP", (Phase({"task": 1}, "classp", hyperparameters),))

    older = row(0) | {"phases": as_json(method().phases)}
    del older["phases"][0]["hyperparameters"]["bounded"]
    settings = older["settings"]
    assert rows.select([older], method(), settings) == [older]
    assert rows.select([older], method(bounded=True), settings) == []
    assert rows.select([older], method(power=2.0), settings) == []


def test_no_row_is_written_twice(file):
    rows.append(file, row(0, ["test"]))
    rows.append(file, row(0, ["test"]), row(1, ["test"]))
    assert rows.read(file) == [row(0, ["test"]), row(1, ["test"])]
    # One that was measured on more is another one; then one of less is there.
    rows.append(file, row(0))
    rows.append(file, row(0, ["train"]))
    assert rows.read(file)[2:] == [row(0)]
    assert rows.select(rows.read(file), METHOD, row()["settings"]) == [row(0)]


def test_processes_that_append_at_once_lose_and_double_nothing(file):
    code = (
        "import pathlib, sys\n"
        "from examples.runner import rows\n"
        "from tests.examples.runner.test_rows import row\n"
        "sys.stdin.readline()\n"
        "path, first = pathlib.Path(sys.argv[1]), int(sys.argv[2])\n"
        "for seed in range(first, first + 60):\n"
        "    rows.append(path, row(seed))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, file, str(first)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
        )
        for first in (0, 30)
    ]
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.close()
    assert [process.wait() for process in processes] == [0, 0]
    assert sorted(r["seed"] for r in rows.read(file)) == list(range(90))


@pytest.mark.parametrize("cut", [1, 20, 0.5, -2])
def test_half_a_last_line_is_named_left_out_and_replaced(file, cut):
    rows.append(file, row(0), row(1))
    whole = file.read_bytes()
    second = whole.index(b"\n") + 1
    length = len(whole) - second
    length = {0.5: length // 2, -2: length - 2}.get(cut, cut)
    os.truncate(file, second + length)
    with pytest.warns(UserWarning, match=f"{file}, line 2 is cut short"):
        assert rows.read(file) == [row(0)]
    with pytest.warns(UserWarning, match="line 2 is cut short"):
        rows.append(file, row(1))
    assert file.read_bytes() == whole


def test_a_last_line_that_lacks_its_end_alone_is_whole(file):
    rows.append(file, row(0), row(1))
    whole = file.read_bytes()
    os.truncate(file, len(whole) - 1)
    assert rows.read(file) == [row(0), row(1)]
    rows.append(file, row(2))
    assert rows.read(file) == [row(0), row(1), row(2)]


def damaged(**changes):
    return json.dumps(row() | changes)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"method": ', "line 2 is no JSON"),
        ("", "line 2 is no JSON"),
        ("\x00" * 40, "line 2 is no JSON"),
        ("[" * 100_000, "line 2 is no JSON"),
        ('{"method": "sgd"}', "line 2 is no row of results"),
        ("[]", "line 2 is no row of results"),
        (damaged(seed="0"), "line 2 is no row of results"),
        (damaged(results=[]), "line 2 is no row of results"),
        (damaged(results=[{}, {}]), "line 2 is no row of results"),
        (damaged(results=[{"accuracy": [1]}] * 2), "line 2 is no row of results"),
        (damaged(settings={}), "line 2 is no row of results"),
        (damaged(phases=[{}, {}]), "line 2 is no row of results"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_written(file, line, message):
    rows.append(file, row(0))
    file.write_text(f"{file.read_text()}{line}\n{json.dumps(row(1))}\n")
    content = file.read_bytes()
    for act in (rows.read, lambda path: rows.append(path, row(2))):
        with pytest.raises(ValueError, match=message) as info:
            act(file)
        assert str(file) in str(info.value)
    assert file.read_bytes() == content


def test_latin_1_is_named(file):
    rows.append(file, row(0))
    file.write_bytes(file.read_bytes() + '{"method": "Müller"}\n'.encode("latin-1"))
    with pytest.raises(ValueError, match="line 2 is no JSON"):
        rows.read(file)


def test_rows_of_a_newer_version_are_kept_and_read(file):
    newer = row(0) | {"mesh": [8], "format": 2}
    newer["settings"] = newer["settings"] | {"mesh": [8]}
    newer["results"][-1] |= {"energy": 3.5, "accuracy": newer["results"][0]["accuracy"]}
    rows.append(file, newer)
    rows.append(file, row(0))
    assert rows.read(file) == [newer, row(0)]
    # Of other settings: no mean mixes them with the old ones.
    assert rows.select(rows.read(file), METHOD, row()["settings"]) == [row(0)]
    found, left_out = page.read(STUDY, file, row()["settings"])
    assert found == {"sgd": [row(0)]}
    assert left_out


def test_a_full_disk_leaves_the_rows_as_they_were(file):
    rows.append(file, row(0))
    content = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) + 100, limits[1]))
    try:
        with pytest.raises(OSError, match=str(file)):
            rows.append(file, row(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == content


def test_committed_rows_are_rows():
    for file in (ROOT / "results").rglob("rows.jsonl"):
        assert rows.read(file)
