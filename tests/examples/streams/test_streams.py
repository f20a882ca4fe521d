import collections
import json
import re

import numpy as np
import pytest

from classp_jax import metrics
from examples.datasets.stream import benchmarks
from examples.datasets.tfds import DatasetError
from examples.models.registry import models
from examples.runner import rows, side_by_side
from examples.runner.data import Split, Task
from examples.runner.plan import as_json, make_optimizer
from examples.streams import __main__ as streams
from examples.streams import figures, report, tables
from examples.streams.study import study
from tests.examples.datasets.test_stream import stream, whole
from tests.examples.helpers import (
    SIGNALS,
    assert_names_what_cannot_be_written,
    assert_names_what_is_wrong,
    assert_prints_what_it_wrote,
    assert_sigterm_saves,
)

MEASURES = ("average_accuracy", "backward_transfer", "forgetting")


@pytest.mark.parametrize("benchmark", benchmarks())
def test_methods(benchmark):
    compared = study(stream(benchmark, tasks=5), epochs=2, batch_size=8)
    names = list(compared.tasks)
    for front in compared.fronts:
        budget = 5 if front.methods.keys() <= compared.groups["stored"].keys() else 9
        assert len(front.methods) == budget  # The same each.
        different = {json.dumps(as_json(m.phases)) for m in front.methods.values()}
        assert len(different) == budget
    for name, method in compared.methods.items():
        if not name.startswith("joint"):
            assert [phase.epochs for phase in method.phases] == [{n: 2} for n in names]
        for phase in method.phases:
            if not any(plugin.is_penalty for plugin in phase.plugins):
                make_optimizer(phase)
    first, *later = compared.methods["classp_0.1"].phases
    assert not first.hyperparameters["apply_decay"]
    assert all("apply_decay" not in phase.hyperparameters for phase in later)


@pytest.fixture
def tiny(monkeypatch):
    loaded = collections.Counter()

    def load(data_dir, names):
        loaded.update(names)
        return {name: whole() for name in names}

    monkeypatch.setattr("examples.datasets.mnist.load", load)
    return loaded


@pytest.fixture
def pictures():
    """For the tests of them."""


@pytest.fixture(autouse=True)
def pictures_are_drawn_where_they_are_tested(request, monkeypatch):
    """Two of a report take a second."""
    if "pictures" not in request.fixturenames:
        for name in ("label_ends", "save"):
            monkeypatch.setattr(figures, name, lambda *_, **__: None)


def run(folder, *arguments):
    options = ["--seeds", "1", "--batch-size", "16", "--tasks", "2"]
    streams.main([*options, *arguments, "--out", str(folder)])


def test_sgd_at_a_rate_of_its_own_then_classp():
    compared = study(stream("split_mnist"), epochs=1, batch_size=64)
    for name, method in compared.groups["classp_then"].items():
        first, *others = method.phases
        assert first.hyperparameters == dict(learning_rate=0.05, apply_decay=False)
        rate = float(name.removeprefix("classp_then_"))
        assert [x.hyperparameters for x in others] == 4 * [dict(learning_rate=rate)]
        assert {x.optimizer for x in method.phases} == {"classp"}


def test_one_command_makes_rows_a_table_and_figures(
    tiny, pictures, tmp_path, monkeypatch
):
    names = [
        *("classp_0.1", "classp_always_0.01", "sgd_0.1", "adam_0.001", "adagrad_0.01"),
        *("classp_self_0.1", "ewc_10", "ewc_online_10", "si_1", "replay_0.1"),
        *("classp_then_0.01", "joint_0.1"),
    ]
    folder = tmp_path / "new"
    run(folder, "--methods", *names)
    assert tiny == {"mnist": 1}
    found = rows.read(folder / "rows.jsonl")
    assert [row["method"] for row in found] == names
    compared, by_name = report.read(folder)
    table = (folder / "table.md").read_text()
    for row in found:
        sequential = row["method"] != "joint_0.1"
        matrix = tables.matrix(compared, row)
        assert matrix.shape == ((2, 2) if sequential else (1, 2))
        # Also on tasks still to come, and before all training.
        assert np.isfinite(matrix).all()
        assert set(row["results"][0]["untrained"]) == {"task_1", "task_2"}
        line = next(
            line
            for line in table.splitlines()
            if line.startswith(f"| {compared.methods[row['method']].title} |")
        )
        cells = [cell.strip(" *") for cell in line.split("|")[2:]]
        for name, cell in zip(MEASURES, cells, strict=False):
            if sequential or name == "average_accuracy":
                expected = getattr(metrics, name)(
                    matrix if sequential else np.repeat(matrix, 2, 0)
                )
                assert cell == f"{float(expected):.1f}"
            else:
                assert cell == "\N{EN DASH}"
    kept = {
        name: of[0]["results"][-1]["bytes_per_weight"] for name, of in by_name.items()
    }
    weights = 784 * 256 + 256 + 256 * 256 + 256 + 2570
    expected = dict(classp=4, classp_self=4, classp_then=4, sgd=0, adam=8, adagrad=4)
    expected |= dict(ewc=8, ewc_online=8, si=12)
    for name, count in expected.items():
        (actual,) = {v for k, v in kept.items() if re.fullmatch(rf"{name}_[\d.]+", k)}
        assert actual == pytest.approx(count, abs=0.01)
    assert kept["replay_0.1"] == pytest.approx(1000 * 784 / weights, rel=1e-3)
    for name in ("matrices", "curves"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    # A second call finds all done.
    monkeypatch.setattr(side_by_side, "train_steps", None)
    run(folder, "--methods", *names)
    assert len(rows.read(folder / "rows.jsonl")) == len(names)


def test_of_many_tasks_the_table_says_how_well_the_first_and_last_were_learned():
    compared = study(stream("permuted_mnist_long", tasks=20), 1, 8)
    right = np.random.default_rng(0).uniform(size=(20, 20))

    def of_tasks(accuracies):
        pairs = zip(compared.tasks, accuracies, strict=True)
        return {task: {"test": [a, a]} for task, a in pairs}

    same = dict(untrained=of_tasks(20 * [0.1]), finite=True)
    same |= dict(bytes_per_weight=4, seconds=1)
    results = [same | dict(accuracy=of_tasks(row)) for row in right]
    phases = as_json(compared.methods["sgd_0.1"].phases)
    row = dict(seed=0, settings=dict(seed=0), phases=phases, results=results)
    table = tables.stream_table(compared, {"sgd_0.1": [row]})
    header, _, line = (text.split(" | ") for text in table.splitlines())
    cells = dict(zip(header, line, strict=True))
    diagonal = 100 * np.diagonal(right)
    assert cells["learned, first 5"] == f"{diagonal[:5].mean():.1f}"
    assert cells["learned, last 10"] == f"{diagonal[-10:].mean():.1f}"
    fewer = study(stream("permuted_mnist_long", tasks=19), 1, 8)
    assert "learned" not in tables.stream_table(fewer, {})


def test_it_ends_with_its_rows_of_the_table_and_the_files(
    tiny, pictures, tmp_path, capsys
):
    run(tmp_path, "--methods", "sgd_0.1", "sgd_0.2")
    capsys.readouterr()
    run(tmp_path, "--methods", "sgd_0.2", "adam_0.001")
    text = capsys.readouterr().out
    table = (tmp_path / "table.md").read_text().splitlines()
    printed = [line for line in text.splitlines() if line[:1] == "|"]
    assert printed[:2] == table[2:4]
    titles = [line.split(" | ")[0] for line in printed[2:]]
    assert titles == ["| SGD, α 0.2", "| Adam, α 0.001"]
    assert printed[3] in table and any("| SGD, α 0.1 |" in line for line in table)
    assert_prints_what_it_wrote(text, tmp_path, "matrices.png", "curves.png")
    # The report alone: all of the table.
    report.main([str(tmp_path)])
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if line[:1] == "|"] == table[2:7]


@pytest.mark.slow
def test_seeds_side_by_side_are_those_one_after_another(tiny, tmp_path):
    names = ["classp_self_0.1", "ewc_online_10", "si_1", "replay_0.1"]
    for count in ("1", "2"):
        several = ["--seeds", "2", "--vmap-seeds", count]
        run(tmp_path / count, "--methods", *names, *several)
    one, two = (report.read(tmp_path / count) for count in ("1", "2"))
    for name in names:
        for alone, beside in zip(one[1][name], two[1][name], strict=True):
            assert alone["seed"] == beside["seed"]
            # Of 40 images one may lie on the fence.
            a, b = tables.matrix(one[0], alone), tables.matrix(two[0], beside)
            np.testing.assert_allclose(a, b, atol=2.6)


@pytest.mark.parametrize("scenario", ["class", "domain", "task"])
def test_scenarios(tiny, tmp_path, scenario):
    benchmark = ["--benchmark", "split_fashion_mnist", "--scenario", scenario]
    run(tmp_path, *benchmark, "--epochs", "12", "--methods", "sgd_0.1")
    assert tiny == {"fashion_mnist": 1}
    compared, found = report.read(tmp_path)
    matrix = tables.matrix(compared, found["sgd_0.1"][0])
    assert np.all(np.diag(matrix) == 100)
    # Of the classes still to come none is named, but where those are all there is.
    if scenario == "class":
        assert matrix[0, 1] == 0
    if scenario == "task":
        assert matrix[0, 1] > 0
    assert f"{scenario}-incremental" in (tmp_path / "table.md").read_text()


def test_the_papers_cnn_learns_a_stream(tiny, tmp_path):
    run(tmp_path, "--model", "cnn", "--epochs", "6", "--methods", "sgd_0.1")
    compared, found = report.read(tmp_path)
    (row,) = found["sgd_0.1"]
    assert tables.matrix(compared, row)[0, 0] > 50
    page = (tmp_path / "table.md").read_text()
    assert page.startswith("# Permuted MNIST, 2 tasks, by the CNN\n")
    assert "--model cnn" in page
    # Those published are of ten tasks.
    assert "## Published" not in page


@pytest.fixture
def colour(monkeypatch):
    """CIFAR-100, but of 300 images, each of its class's brightness."""

    def split(n):
        labels = np.arange(n, dtype=np.int32) % 100
        images = np.broadcast_to(2 * labels[:, None, None, None], (n, 32, 32, 3))
        return Split(images.astype(np.uint8), labels)

    load = {"cifar100": Task(split(300), split(100))}
    monkeypatch.setattr("examples.datasets.cifar.load", lambda name, _: load[name])


@pytest.mark.parametrize("model", models())
@pytest.mark.parametrize("benchmark", ["permuted_mnist", "split_cifar100"])
def test_every_model_takes_grey_and_colour(
    tiny, colour, tmp_path, capsys, model, benchmark
):
    options = ["--benchmark", benchmark, "--model", model]
    run(tmp_path, *options, "--methods", "sgd_0.1", "--dry-run")
    steps = 10 if benchmark == "permuted_mnist" else 4
    assert f"each 2 epochs in 2 phases, {steps} steps" in capsys.readouterr().out


def test_a_page_says_how_many_inputs_and_outputs_a_network_has(colour, tmp_path):
    options = ["--benchmark", "split_cifar100", "--model", "wide_1000"]
    run(tmp_path, *options, "--methods", "sgd_0.001")
    assert (
        (tmp_path / "table.md")
        .read_text()
        .startswith("# Split CIFAR-100, 2 tasks, class-incremental, by 3072-1000-100\n")
    )
    (row,) = rows.read(tmp_path / "rows.jsonl")
    assert row["settings"]["examples"]["task_2"] == {"train": 30, "test": 10}


@pytest.mark.parametrize(
    ("of", "lines"),
    [
        (("permuted_mnist",), ["| EWC | 83 | 94 |", "| GEM, online | 80 | 83 |"]),
        (("split_mnist", "task"), ["| SI | 97 | 97 |"]),
        (("split_mnist", "class"), ["| Replay, online | 92 | \N{EN DASH} |"]),
        (("split_mnist", "domain"), []),
        (("rotated_mnist",), []),
    ],
)
def test_published_numbers_are_those_of_the_scenario(of, lines):
    table = tables.published_table(stream(*of))
    assert bool(table) == bool(lines)
    assert all(line in table for line in lines)


def test_settings_are_chosen_on_another_stream(tiny, tmp_path):
    there = tmp_path / "validation"
    settings = ["adam_0.001", "adam_0.0001", "sgd_0.1", "sgd_0.02"]
    run(there, "--methods", *settings, "--validation", "--stream-seed", "1")
    compared, found = report.read(there)
    assert sorted(found) == sorted(settings)
    (row,) = found["sgd_0.1"]
    assert row["settings"]["examples"]["task_1"] == {"train": 72, "test": 8}
    assert "**" in (there / "table.md").read_text()
    assert not list(there.glob("*.png"))
    run(tmp_path, "--methods", "adam", "sgd", "--best-in", str(there))
    chosen = {row["method"] for row in rows.read(tmp_path / "rows.jsonl")}
    assert chosen == {
        tables.best(compared, front, found)
        for front in compared.fronts
        if front.title in ("Adam", "SGD")
    }
    with pytest.raises(SystemExit):
        run(tmp_path, "--methods", "adagrad", "--best-in", str(there))


def test_rows_of_a_loss_over_present_classes_are_apart(tiny, tmp_path):
    of_class = ["--benchmark", "split_mnist", "--scenario", "class", "--methods"]
    run(tmp_path, *of_class, "sgd_0.1")
    run(tmp_path, *of_class, "sgd_0.1", "joint_0.1", "--loss", "present")
    page = (tmp_path / "table.md").read_text()
    assert page.startswith(
        "# Split MNIST, 2 tasks, class-incremental, the loss over present classes\n"
    )
    assert "--model mlp --loss present --stream-seed 0 --out" in page
    assert "Left out: 1 row of" in page
    plain, masked, _ = rows.read(tmp_path / "rows.jsonl")
    assert masked["settings"] == plain["settings"] | {"loss": "present"}
    of_both = [row["results"][0]["last_loss"] for row in (plain, masked)]
    assert of_both[0] > of_both[1]  # The first batch's, over ten classes and over two.


def test_settings_are_chosen_by_the_mean_over_streams_and_seeds(tiny, tmp_path, capsys):
    there = tmp_path / "validation"
    for stream_seed in "12":
        options = ["--validation", "--stream-seed", stream_seed, "--seeds", "2"]
        run(there, "--methods", "sgd_0.1", "sgd_0.02", *options)
    made = rows.read(there / "rows.jsonl")
    assert len(made) == 8
    # The one is ahead on a stream, the other by the mean.
    accuracies = {("sgd_0.1", 1): 0.9, ("sgd_0.02", 1): 0.8}
    accuracies |= {("sgd_0.1", 2): 0.4, ("sgd_0.02", 2): 0.7}
    for row in made:
        seed = row["settings"]["seed"]
        accuracy = accuracies[row["method"], seed] + 0.01 * row["seed"]
        for task in row["results"][-1]["accuracy"].values():
            task["test"] = [accuracy, accuracy]
        if seed == 2:  # As where the tasks' classes are others.
            row["settings"]["examples"]["task_1"]["train"] += 1
    text = "".join(json.dumps(row) + "\n" for row in made)
    (there / "rows.jsonl").write_text(text)
    report.main([str(there)])
    _, found = report.read(there)
    pairs = {(1, 0), (1, 1), (2, 0), (2, 1)}
    assert all({*map(tables.pair, of)} == pairs for of in found.values())
    page = (there / "table.md").read_text()
    # The mean of 80, 81, 70 and 71.
    assert "| SGD, α 0.02 | **75.5 ± 5.8** |" in page
    assert "over the seeds and the streams of seeds 1, 2." in page
    assert "Left out" not in page
    for seed in "12":
        assert f"--model mlp --stream-seed {seed} --validation --out" in page
    run(tmp_path, "--methods", "sgd", "--best-in", str(there))
    assert {row["method"] for row in rows.read(tmp_path / "rows.jsonl")} == {"sgd_0.02"}

    lines = text.splitlines(keepends=True)
    (there / "rows.jsonl").write_text("".join(lines[:-1]))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run(tmp_path, "--methods", "sgd", "--best-in", str(there))
    lacking = "can't be compared: SGD, α 0.02 lacks --stream-seed 2 --seed 1"
    assert lacking in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--methods rmsprop", "invalid choice: 'rmsprop'"),
        ("--benchmark core50", "invalid choice: 'core50'"),
        ("--scenario class", "--scenario of permuted_mnist must be domain"),
        ("--loss present", "--loss present is for --scenario class"),
        ("--benchmark split_mnist --tasks 6", "--tasks of split_mnist must be 2 to 5"),
        ("--tasks 1", "must be 2 to 10"),
        ("--epochs 0", "must be 1 or more, got 0"),
        ("--batch-size 1", "--batch-size must be 2 or more"),
        ("--batch-size 512", "at most 80"),
        ("--out pyproject.toml", "File exists"),
        ("--best-in missing", "holds no rows of a stream"),
    ],
)
def test_names_what_is_wrong(tiny, arguments, message, capsys, tmp_path):
    assert_names_what_is_wrong(streams, arguments, message, capsys, tmp_path)


def test_missing_data_is_one_clear_line(monkeypatch, capsys, tmp_path):
    def missing(data_dir, names):
        raise DatasetError("put it there")

    monkeypatch.setattr("examples.datasets.mnist.load", missing)
    with pytest.raises(SystemExit):
        streams.main(["--out", str(tmp_path)])
    assert "put it there" in capsys.readouterr().err


def test_a_report_of_nothing_is_one_clear_line(capsys, tmp_path):
    with pytest.raises(SystemExit):
        report.main([str(tmp_path)])
    assert "holds no rows of a stream" in capsys.readouterr().err


def test_without_methods_it_trains_three(tiny, tmp_path):
    run(tmp_path)
    found = rows.read(tmp_path / "rows.jsonl")
    assert [row["method"] for row in found] == [
        "classp_0.1",
        "sgd_0.02",
        "ewc_online_30",
    ]


def test_a_dry_run_says_what_would_be_trained_and_how_long(tiny, tmp_path, capsys):
    names = ["--methods", "sgd_0.1", "classp_0.1", "classp_0.2"]
    out = tmp_path / "out"
    run(out, *names, "--dry-run")
    assert not out.exists()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == (
        "sgd_0.1 (SGD, α 0.1): 1 of 1 seed, each 2 epochs in 2 phases, 10 steps"
    )
    assert said[-1].startswith("Together 30 steps of 16 examples")
    run(out, "--methods", "sgd_0.1")
    run(out, *names, "--dry-run")
    said = capsys.readouterr().out.splitlines()
    assert "sgd_0.1 (SGD, α 0.1): 0 of 1 seed" in "\n".join(said)
    assert said[-1].startswith("Together 20 steps")


def test_methods_are_listed_by_their_names_and_titles(capsys):
    with pytest.raises(SystemExit) as info:
        streams.main(["--list-methods"])
    assert info.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert "SGD, α: sgd_{0.001,0.002,0.005,0.01,0.02,0.05,0.1,0.2,0.4}" in lines
    assert lines[-1].startswith("Groups: all (")


def test_seeds_of_ones_own(tiny, tmp_path):
    options = ["--tasks", "2", "--batch-size", "16", "--methods", "sgd_0.1"]
    streams.main([*options, "--seed", "3", "1", "3", "--out", str(tmp_path)])
    assert [row["seed"] for row in rows.read(tmp_path / "rows.jsonl")] == [3, 1]


@pytest.mark.parametrize("name", SIGNALS)
def test_sigterm_saves_and_says_how_to_go_on(tiny, tmp_path, capsys, monkeypatch, name):
    assert_sigterm_saves(streams, tmp_path, capsys, monkeypatch, name)


def test_what_cannot_be_written_is_one_clear_line(tiny, tmp_path, capsys):
    assert_names_what_cannot_be_written(streams, tmp_path, capsys)
