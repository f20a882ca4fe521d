"""A setting that is chosen on other data, and what it costs."""

import shutil

import pytest

from examples.datasets.stream import benchmarks
from examples.report import index
from examples.runner import rows
from examples.runner.plan import as_json
from examples.streams import choice, regret
from examples.streams.choice import Place
from examples.streams.study import study
from tests import pages
from tests.examples.datasets.test_stream import stream

DASH = "\N{EN DASH}"
PERMUTED = Place("permuted_mnist", "domain", "mlp", "")
ROTATED = Place("rotated_mnist", "domain", "mlp", "")
SPLIT = Place("split_mnist", "domain", "mlp", "")
TOLD = Place("split_mnist", "task", "mlp", "")


def test_a_benchmark_is_left_out_with_all_of_its_scenarios():
    regrets = choice.chosen_elsewhere(
        {
            PERMUTED: {"a": 90.0, "b": 80.0},
            SPLIT: {"a": 70.0, "b": 99.0},
            TOLD: {"a": 70.0, "b": 99.0},
        }
    )
    # Of the split streams each would tell the other to take b.
    assert {place: of.chosen for place, of in regrets.items()} == {
        PERMUTED: "b",
        SPLIT: "a",
        TOLD: "a",
    }
    assert {place: of.points for place, of in regrets.items()} == {
        PERMUTED: 10,
        SPLIT: 29,
        TOLD: 29,
    }
    assert regrets[SPLIT].accuracy == (99, 70)
    assert regrets[SPLIT].best == "b"


def test_the_least_mean_regret_counts_each_benchmark_once():
    accuracies = {
        PERMUTED: {"a": 90.0, "b": 82.0},
        ROTATED: {"a": 50.0, "b": 50.0},
        SPLIT: {"a": 70.0, "b": 75.0},
        TOLD: {"a": 70.0, "b": 75.0},
    }
    # Stream by stream, b would lose 8 and a 10.
    assert choice.chosen_elsewhere(accuracies)[ROTATED].chosen == "a"
    assert choice.over_benchmarks({PERMUTED: 8, SPLIT: 0, TOLD: 0}) == 4


def test_what_was_not_tried_on_all_streams_may_be_best_but_not_chosen():
    regrets = choice.chosen_elsewhere(
        {
            PERMUTED: {"a": 80.0, "b": 85.0, "c": 90.0},
            ROTATED: {"a": 60.0, "b": 58.0},
            SPLIT: {"a": 70.0, "b": 60.0, "d": 75.0},
        }
    )
    of = regrets[PERMUTED]
    assert (of.best, of.chosen, of.compared) == ("c", "a", 2)
    assert (of.points, of.among) == (10, 5)
    assert not choice.chosen_elsewhere({PERMUTED: {"a": 1.0}, ROTATED: {"b": 1.0}})


def test_on_the_same_scenario_others_do_not_count():
    accuracies = {
        PERMUTED: {"a": 80.0, "b": 85.0},
        SPLIT: {"a": 70.0, "b": 60.0},
        TOLD: {"a": 10.0, "b": 90.0},
    }
    assert choice.chosen_elsewhere(accuracies)[PERMUTED].chosen == "b"
    regrets = choice.of_the_same_scenario(accuracies)
    assert regrets[PERMUTED].chosen == "a"
    # There is no other task-incremental stream.
    assert regrets.keys() == {PERMUTED, SPLIT}


def test_grids_are_all_sweeps_and_those_of_one_method_together():
    made = choice.grids({})
    titles = {grid.title: grid.titles for grid in made}
    assert len(titles) == len(made)
    compared = study(stream("permuted_mnist"), 1, 8)
    ours = {name: title for of in made for name, title in of.titles.items()}
    assert ours == {
        name: compared.methods[name].title
        for front in compared.fronts
        for name in front.methods
    }
    for title in ("EWC", "EWC, online", "SI"):
        assert len(titles[title]) == 27
        assert sum("SGD at 0.002" in of for of in titles[title].values()) == 9
    # What differs in more than a rate is a method of its own.
    assert len(titles["CLASSP"]) == len(titles["CLASSP, ε 1"]) == 9


def test_means_are_of_settings_with_the_same_seeds():
    first, both = {(1, 0): 50.0}, {(1, 0): 50.0, (2, 0): 60.0}
    measured = {
        PERMUTED: {"sgd_0.1": first, "sgd_0.2": both, "si_slow_30": first},
        ROTATED: {"sgd_0.1": first, "sgd_0.2": {(2, 0): 60.0}},
    }
    made = {grid.title: grid for grid in choice.grids(measured)}
    sgd = made["SGD"]
    assert sgd.accuracies == {PERMUTED: {"sgd_0.2": 55}}
    assert sgd.runs == {PERMUTED: 2}
    assert sgd.left_out == {PERMUTED: ["sgd_0.1"], ROTATED: ["sgd_0.1", "sgd_0.2"]}
    # Another method's need not be as many.
    assert made["SI"].accuracies == {PERMUTED: {"si_slow_30": 50}}


def made(benchmark, name, accuracy, stream_seed=1, seed=0, **changes):
    """A row of a stream of two tasks, with what a page reads of it."""
    of = stream(benchmark)._replace(tasks=2, seed=stream_seed, validation=True)
    method = study(of, 1, 8).methods[name]
    result = {
        "accuracy": {f"task_{i}": {"test": [accuracy, accuracy]} for i in (1, 2)},
        "curve": {"step": [0, 10], "accuracy": {}},
        "update_density": 1.0,
        "bytes_per_weight": 0.0,
        "finite": True,
        "device": "2 cores",
        "versions": {},
    }
    settings = {"experiment": "streams", "batch_size": 8}
    settings["examples"] = {"task_1": {"train": 100 + stream_seed}}
    settings |= of._asdict() | {"model": "mlp", "epochs": 1} | changes
    phases = as_json(method.phases)
    row = {"method": name, "seed": seed, "settings": settings, "phases": phases}
    return row | {"results": len(phases) * [result]}


@pytest.fixture
def folder(tmp_path):
    rows.append(
        tmp_path / "permuted" / "rows.jsonl",
        *(made("permuted_mnist", "sgd_0.1", x, 1, i) for i, x in enumerate((0.7, 0.8))),
        *(made("permuted_mnist", "sgd_0.2", 0.5, 1, i) for i in range(2)),
        made("permuted_mnist", "sgd_0.4", 0.9),
        made("permuted_mnist", "adam_0.001", 0.9),
    )
    rows.append(
        tmp_path / "more" / "rotated" / "rows.jsonl",
        made("rotated_mnist", "sgd_0.1", 0.2),
        made("rotated_mnist", "sgd_0.2", 0.3),
        made("rotated_mnist", "sgd_0.05", 0.5),
    )
    of_test = [
        made("rotated_mnist", "sgd_0.1", 1.0, 1, i, validation=False) for i in range(2)
    ]
    few = made("rotated_mnist", "sgd_0.1", 1.0)
    rows.append(tmp_path / "test" / "rows.jsonl", *of_test, few)
    return tmp_path


def test_the_command_makes_a_page_of_all_validation_rows(folder, capsys):
    regret.main([str(folder)])
    page = (folder / "regret.md").read_text()
    summary, alike, details = pages.tables(page)
    assert summary.header[4:] == [
        "among these",
        "worst",
        "Permuted MNIST",
        "Rotated MNIST",
    ]
    assert summary.rows == [
        ["SGD", "2 of 3", "35.0", "27.5", "17.5", "30.0", "25.0", "30.0"]
    ]
    assert alike.rows == summary.rows
    of_permuted, of_rotated = details.rows
    assert of_permuted[:9] == [
        *("SGD", "Permuted MNIST", "2", "α 0.1", "75.0"),
        *("α 0.2", "50.0", "25.0", "2 of 2"),
    ]
    assert of_rotated[3:9] == [*("α 0.05", "50.0", "α 0.1", "20.0", "30.0", "2 of 3")]
    assert "tried on all of their streams: Adam." in page
    assert "on the stream: SGD, α 0.4 (Permuted MNIST)." in page
    assert str(folder) not in page
    picture = folder / "regret.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "| SGD | 2 of 3 |" in said and f"Written: {picture}" in said


def test_rows_of_a_loss_of_their_own_are_not_read(folder):
    before = choice.read(folder)
    more = made("split_mnist", "sgd_0.1", 0.9, loss="present")
    rows.append(folder / "present" / "rows.jsonl", more)
    assert choice.read(folder) == before


def test_other_networks_and_lengths_are_other_streams(folder):
    more = made("permuted_mnist", "sgd_0.1", 0.9, model="cnn")
    rows.append(folder / "cnn" / "rows.jsonl", more)
    before = choice.read(folder)
    assert [(place.title, place.model) for place in before] == [
        ("Permuted MNIST", "cnn"),
        ("Permuted MNIST", "mlp"),
        ("Rotated MNIST", "mlp"),
    ]
    longer = made("permuted_mnist", "sgd_0.1", 0.9)
    longer["settings"]["batch_size"] = 16
    rows.append(folder / "longer" / "rows.jsonl", longer)
    assert len(choice.read(folder)) == len(before) + 1


def test_rows_of_one_stream_in_two_folders_are_taken_together(folder):
    more = [made("rotated_mnist", f"sgd_0.{i}", 0.6, 2) for i in (1, 2)]
    rows.append(folder / "again" / "rows.jsonl", *more)
    _, of_rotated = choice.read(folder).values()
    assert of_rotated["sgd_0.2"] == {(1, 0): 30, (2, 0): 60}


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ((), "has no rows of a validation stream"),
        (("permuted",), "has no method on the streams of two benchmarks"),
    ],
)
def test_nothing_to_choose_on_is_one_clear_line(folder, capsys, keep, message):
    for path in folder.iterdir():
        if path.name not in keep:
            shutil.rmtree(path)
    with pytest.raises(SystemExit):
        regret.main([str(folder)])
    assert message in capsys.readouterr().err
    assert not (folder / "regret.md").exists()


def test_the_committed_page_is_what_the_command_makes_of_the_rows(
    tmp_path, monkeypatch
):
    committed = index.ROOT / "results" / "streams"
    for path in committed.rglob("validation/rows.jsonl"):
        there = tmp_path / path.relative_to(index.ROOT)
        there.parent.mkdir(parents=True)
        shutil.copy(path, there)
    monkeypatch.chdir(tmp_path)
    regret.main([])
    page = (tmp_path / "results" / "streams" / "regret.md").read_text()
    assert page == (committed / "regret.md").read_text()


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_committed_accuracies_are_those_of_the_tables_of_their_streams(model):
    text = (index.ROOT / "results" / "streams" / "regret.md").read_text()
    (section,) = [s for s in text.split("\n## ") if s.startswith(f"Network: {model}\n")]
    *_, details = pages.tables(section)
    names = {of.title: name for name, of in benchmarks().items()}
    for method, place, _, best, of_best, *others in details.rows:
        title, _, scenario = place.partition(", ")
        folder = f"streams/{names[title]}/{scenario or 'domain'}-{model}/validation"
        (table,) = pages.of_results(f"{folder}/table.md")
        said = table.column("average accuracy")
        pairs = [(best, of_best), others[:2], *([others[4:6]] * (others[4] != DASH))]
        for setting, accuracy in pairs:
            # Where a sweep's title doesn't begin with that of its grid.
            name = f"{method}, {setting}"
            assert said[name if name in said else setting].split()[0] == accuracy
        assert float(others[2]) == pytest.approx(
            float(of_best) - float(others[1]), abs=0.11
        )
