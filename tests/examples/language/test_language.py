"""The command that learns one language after another."""

import functools
import json

import numpy as np
import pytest

from examples.language import __main__ as language
from examples.language import report
from examples.language.study import LIKE, study
from examples.language.tables import average, bits, gap, kept, learned
from examples.methods.replay import Replay
from examples.models.decoder import Decoder
from examples.runner import batches
from examples.runner.data import Experiment, Split, Task
from examples.runner.method_checks import check_method, check_transitions
from examples.runner.plan import as_json
from examples.runner.stopping import Preempted
from examples.runner.trainers import Trainers
from tests.examples.helpers import (
    assert_names_what_is_wrong,
    assert_prints_what_it_wrote,
    read,
    without_times,
)

TINY = [
    "--width",
    "8",
    "--layers",
    "1",
    "--heads",
    "2",
    "--context",
    "8",
    "--batch-size",
    "4",
    "--seeds",
    "1",
]


@pytest.fixture
def texts(tmp_path):
    """Arguments that name three short texts of other letters each."""
    named = []
    for i, name in enumerate(("a", "b", "c")):
        letters = np.random.default_rng(i).integers(0, 6, 700) + ord(name) + 6 * i
        (tmp_path / f"{name}.txt").write_bytes(letters.astype(np.uint8).tobytes())
        named.append(f"{name}={tmp_path / name}.txt")
    return ["--text", *named]


def run(texts, out, *more):
    language.main([*texts, *TINY, "--out", str(out), *more])


def small_experiment():
    """As the command makes it, of random bytes."""
    rng = np.random.default_rng(0)

    def split(n):
        x = rng.integers(0, 256, (n, 9))
        return Split(x[:, :-1].astype(np.uint8), x[:, 1:].astype(np.int32))

    tasks = {name: Task(split(600), split(8)) for name in LIKE["examples"]}
    return Experiment(
        "language",
        functools.partial(Decoder, width=8, layers=1, heads=2),
        language.as_they_are,
        tasks,
        16,
        options={"epochs": [1, 1]},
        splits=("test",),
        measure_unseen=True,
        measure="bits",
    )


@pytest.mark.filterwarnings("ignore:A phase's optimizer goes on from a sum")
def test_every_method_can_be_trained_and_begins_alike():
    """Nothing is compiled for it."""
    experiment = small_experiment()
    compared = study(experiment.settings)
    sizes = {name: len(task.train.labels) for name, task in experiment.tasks.items()}
    tasks, trainers = batches.of_tasks(sizes), Trainers(experiment, None)
    first = set()
    for name, method in compared.methods.items():
        check_method(method, experiment, tasks)
        if name.endswith(("_1", "_10", "_0.001")) or name == "joint":
            check_transitions(method, trainers.of)
        if name != "joint":
            first.add(json.dumps(as_json(method.phases[:1])))
            assert [list(p.epochs) for p in method.phases] == [[t] for t in sizes]
    assert len(first) == 1
    for front in compared.fronts:
        different = {json.dumps(as_json(m.phases)) for m in front.methods.values()}
        assert len(different) == len(front.methods) == 5, front.title


def test_what_is_replayed_is_a_share_of_each_earlier_text():
    compared = study(LIKE)
    for number, phase in enumerate(compared.methods["replay_4"].phases):
        memories = [p.memory for p in phase.plugins if isinstance(p, Replay)]
        assert memories == [10 * number] * (number > 0)


@pytest.mark.filterwarnings("ignore:A phase's optimizer goes on from a sum")
def test_command_measures_and_reports(texts, tmp_path, capsys):
    names = ["adamw_0.001", "adamw_0.003", "classp_moment_0.1", "replay_1", "joint"]
    run(texts, tmp_path, "--methods", *names)
    printed = capsys.readouterr().out
    assert_prints_what_it_wrote(printed, tmp_path, "fronts.png")
    assert (tmp_path / "fronts.svg").exists()
    by_name = {row["method"]: row for row in read(tmp_path)}
    assert list(by_name) == names
    for name, row in by_name.items():
        assert all(result["finite"] for result in row["results"])
        assert kept(row) == bits(row, "a") == row["results"][-1]["bits"]["a"]["test"][0]
        assert len(row["results"]) == (1 if name == "joint" else 3)
    row = by_name["adamw_0.001"]
    assert learned(row) == pytest.approx((bits(row, "b", 1) + bits(row, "c", 2)) / 2)
    assert learned(by_name["joint"]) == pytest.approx(
        (bits(by_name["joint"], "b") + bits(by_name["joint"], "c")) / 2
    )
    assert average(row) == pytest.approx(sum(bits(row, of) for of in "abc") / 3)
    assert gap(row) >= 0 and np.isnan(gap(by_name["joint"]))
    # The first phase is the same of all methods.
    assert (
        len({json.dumps(without_times(r)["results"][0]) for r in read(tmp_path)}) == 2
    )
    table = (tmp_path / "table.md").read_text()
    assert table.startswith("# a, then b, then c\n")
    for row_title in ("| AdamW, α 0.001 |", "| All at once, AdamW |"):
        assert row_title in table
    assert "python -m examples.language" in table and str(tmp_path) not in table
    report.main([str(tmp_path)])
    assert (tmp_path / "table.md").read_text() == table


def test_a_run_that_was_stopped_gives_the_same_row(texts, tmp_path, monkeypatch):
    methods = "--methods", "adamw_0.001"
    run(texts, tmp_path / "whole", *methods)
    calls, train = [], language.cli.Runner.train

    def stopped(self, phases, *arguments):
        if len(phases) == 3 and not calls:
            calls.append(phases)
            raise Preempted("SIGTERM")
        return train(self, phases, *arguments)

    monkeypatch.setattr(language.cli.Runner, "train", stopped)
    with pytest.raises(SystemExit):
        run(texts, tmp_path / "parts", *methods)
    run(texts, tmp_path / "parts", *methods)
    whole, parts = (read(tmp_path / folder) for folder in ("whole", "parts"))
    assert without_times(*whole) == without_times(*parts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--text a.txt", "argument --text: must be NAME=PATH, got 'a.txt'"),
        ("--text =a.txt b=b.txt", "must be NAME=PATH, got '=a.txt'"),
        ("--text a=a.txt a=b.txt", "each text must have a name of its own"),
        ("--text a=a.txt", "must name two texts or more"),
        ("--text a=nowhere.txt b=b.txt", "nowhere.txt"),
        ("", "the following arguments are required: --text"),
        ("--text a=a.txt b=b.txt --width 12", "--width must be a multiple of 8"),
        ("--text a=a.txt b=b.txt --context 99", "5% must be above the context, 99"),
        ("--text a=a.txt b=b.txt --context 8 --bytes 8 300", "the 8 bytes to train on"),
        ("--text a=a.txt b=b.txt --context 8 --batch-size 99", "must be at most"),
        (
            "--text a=a.txt b=b.txt --context 8 --batch-size 4 --methods replay_4",
            "--batch-size must be above 4, as replay_4 replays so many",
        ),
        (
            "--text a=a.txt b=b.txt --context 8 --bytes 250 600 --batch-size 4"
            " --methods classp_data",
            "classp_data_0.01: the first text must have 32 windows",
        ),
    ],
)
def test_what_is_wrong_is_named(
    arguments, message, texts, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert_names_what_is_wrong(language, arguments, message, capsys, tmp_path / "out")


def test_methods_are_listed_without_texts(capsys):
    with pytest.raises(SystemExit) as info:
        language.main(["--list-methods"])
    assert info.value.code == 0
    *lines, groups = capsys.readouterr().out.splitlines()
    assert "AdamW, α: adamw_{3e-05,0.0001,0.0003,0.001,0.003}" in lines
    assert "classp_moment (5)" in groups and "joint (1)" in groups


def test_a_report_of_nothing_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        report.main([str(tmp_path)])
    assert "holds no rows of this experiment" in capsys.readouterr().err
