import collections
import json
import pathlib
import re

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import classp_jax
from examples import continual, rows
from examples.continual import Split, Task
from examples.datasets import DatasetError
from examples.methods import as_json, make_optimizer
from examples.mlp import MLP
from examples.streams import __main__ as streams
from examples.streams import report, tables
from examples.streams.data import BENCHMARKS, Stream
from examples.streams.methods import study
from tests.examples.helpers import (
    SIGNALS,
    assert_names_what_cannot_be_written,
    assert_names_what_is_wrong,
    assert_prints_what_it_wrote,
    assert_sigterm_saves,
)

ROOT = pathlib.Path(__file__).parents[2]
MEASURES = ("average_accuracy", "backward_transfer", "forgetting")


def whole(train=80, test=40, seed=0):
    """A data set that a network learns: a few bright pixels a class."""
    rng = np.random.default_rng(seed)

    def split(n):
        labels = (np.arange(n) % 10).astype(np.int32)
        images = rng.integers(0, 40, (n, 28, 28, 1)).astype(np.uint8)
        images[np.arange(n), 2 * labels + 4, 9:19] = 255
        return Split(images, labels)

    return Task(split(train), split(test))


def stream(benchmark, scenario=None, tasks=None, **options):
    of = BENCHMARKS[benchmark]
    return Stream(benchmark, scenario or of.scenarios[0], tasks or of.tasks, **options)


def test_permuted_mnist_has_the_permutations_of_avalanche():
    data = whole()
    tasks = stream("permuted_mnist", seed=3).of(data)
    assert list(tasks) == [f"task_{i}" for i in range(1, 11)]
    # PermutedMNIST(10, seed=3) draws one a task from this generator; none is as it was.
    rng = np.random.RandomState(3)
    for task in tasks.values():
        permutation = rng.permutation(784)
        for moved, split in zip(task, data, strict=True):
            flat = split.inputs.reshape(len(split.labels), 784)
            expected = flat[:, permutation].reshape(split.inputs.shape)
            np.testing.assert_array_equal(moved.inputs, expected)
            np.testing.assert_array_equal(moved.labels, split.labels)
            assert moved.inputs.dtype == np.uint8


def test_rotated_mnist_has_the_angles_of_avalanche_and_turns_as_pillow_does():
    data = whole(20, 10)
    rng = np.random.RandomState(0)
    for task in stream("rotated_mnist", tasks=5).of(data).values():
        angle = int(rng.randint(-180, 181))
        for moved, split in zip(task, data, strict=True):
            expected = [
                np.asarray(Image.fromarray(image[..., 0]).rotate(angle))
                for image in split.inputs
            ]
            np.testing.assert_array_equal(moved.inputs[..., 0], expected)


@pytest.mark.parametrize("benchmark", ["split_mnist", "split_fashion_mnist"])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("scenario", ["class", "domain", "task"])
def test_split_streams(benchmark, scenario, seed):
    data = whole()
    of = stream(benchmark, scenario, seed=seed)
    tasks, seen = of.of(data), []
    assert len(tasks) == 5
    for number, task in enumerate(tasks.values()):
        for part, split in zip(task, data, strict=True):
            # Whose image it is, by the bright row.
            classes = (part.inputs[:, ::2, 9, 0] == 255).argmax(1) - 2
            pair = np.unique(classes)
            assert len(pair) == 2 and len(part.labels) == len(split.labels) / 5
            if scenario == "domain":
                assert set(part.labels) == {0, 1}
                pairs = zip(classes.tolist(), part.labels.tolist(), strict=True)
                assert len(set(pairs)) == 2
            else:
                np.testing.assert_array_equal(part.labels, classes)
        if scenario == "task":
            assert [of.heads[label] for label in pair] == [number, number]
        seen += pair.tolist()
    assert sorted(seen) == list(range(10))
    assert (seen == list(range(10))) == (seed == 0)
    assert of.outputs == (2 if scenario == "domain" else 10)
    assert of.chance == (0.1 if scenario == "class" else 0.5)
    assert (of.heads is None) == (scenario != "task")


def test_validation_holds_out_of_the_training_set():
    data = whole(100, 40)
    tasks = stream("permuted_mnist", validation=True).of(data)
    for task in tasks.values():
        assert (len(task.train.labels), len(task.test.labels)) == (90, 10)
    first = stream("split_mnist", validation=True).of(data)["task_1"].test
    assert all(any(np.array_equal(i, j) for j in data.train.inputs) for i in first[0])


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_methods(benchmark):
    compared = study(stream(benchmark), epochs=2, batch_size=8)
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
            if not phase.ewc:
                make_optimizer(phase)
    first, *later = compared.methods["classp_0.1"].phases
    assert not first.hyperparameters["apply_decay"]
    assert all("apply_decay" not in phase.hyperparameters for phase in later)


def test_the_mlp_has_the_baselines_size_and_no_dropout():
    params = nnx.state(MLP(nnx.Rngs(0)), nnx.Param)
    shapes = {p.shape for p in nnx.to_flat_state(params).leaves}
    assert {(784, 256), (256, 256), (256, 10)} < shapes
    model, images = MLP(nnx.Rngs(0)), np.ones((3, 28, 28, 1), np.float32)
    np.testing.assert_array_equal(
        model(images), model(images, dropout_rngs=nnx.Rngs(1))
    )
    assert model(images).shape == (3, 10)


@pytest.fixture
def tiny(monkeypatch):
    loaded = collections.Counter()

    def load(data_dir, names):
        loaded.update(names)
        return {name: whole() for name in names}

    monkeypatch.setattr("examples.vision.data.load", load)
    return loaded


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


def test_one_command_makes_rows_a_table_and_figures(tiny, tmp_path, monkeypatch):
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
                expected = getattr(classp_jax, name)(
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
    monkeypatch.setattr(continual, "_train_steps", None)
    run(folder, "--methods", *names)
    assert len(rows.read(folder / "rows.jsonl")) == len(names)


def test_it_ends_with_its_rows_of_the_table_and_the_files(tiny, tmp_path, capsys):
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
    run(tmp_path, "--model", "cnn", "--epochs", "12", "--methods", "sgd_0.1")
    compared, found = report.read(tmp_path)
    (row,) = found["sgd_0.1"]
    assert tables.matrix(compared, row)[0, 0] > 50
    page = (tmp_path / "table.md").read_text()
    assert page.startswith("# Permuted MNIST, 2 tasks, by the CNN\n")
    assert "--model cnn" in page


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


COMMITTED = [
    path.parent
    for path in sorted((ROOT / "results").rglob("rows.jsonl"))
    if '"experiment": "streams"' in path.read_text()[:1000]
]


@pytest.mark.parametrize(
    "folder", COMMITTED, ids=lambda path: "-".join(path.parts[-2:])
)
def test_committed_tables_are_those_of_the_committed_rows(folder):
    compared, found = report.read(folder)
    table = tables.stream_table(compared, found)
    page = (folder / "table.md").read_text()
    assert page.startswith(f"# {compared.title}\n\n{table}\n")
    if folder.name != "validation":
        assert table in (ROOT / "docs" / "benchmarks.md").read_text()
    for name in ("matrices", "curves"):
        assert (folder / f"{name}.png").exists()


def test_settings_are_chosen_on_another_stream(tiny, tmp_path):
    there = tmp_path / "validation"
    settings = ["adam_0.001", "adam_0.0001", "sgd_0.1", "sgd_0.02"]
    run(there, "--methods", *settings, "--validation", "--stream-seed", "1")
    compared, found = report.read(there)
    assert sorted(found) == sorted(settings)
    (row,) = found["sgd_0.1"]
    assert row["settings"]["examples"]["task_1"] == {"train": 72, "test": 8}
    assert "**" in (there / "table.md").read_text()
    run(tmp_path, "--methods", "adam", "sgd", "--best-in", str(there))
    chosen = {row["method"] for row in rows.read(tmp_path / "rows.jsonl")}
    assert chosen == {
        tables.best(compared, front, found)
        for front in compared.fronts
        if front.title in ("Adam", "SGD")
    }
    with pytest.raises(SystemExit):
        run(tmp_path, "--methods", "adagrad", "--best-in", str(there))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--methods rmsprop", "invalid choice: 'rmsprop'"),
        ("--benchmark core50", "invalid choice: 'core50'"),
        ("--scenario class", "--scenario of permuted_mnist must be domain"),
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

    monkeypatch.setattr("examples.vision.data.load", missing)
    with pytest.raises(SystemExit):
        streams.main(["--out", str(tmp_path)])
    assert "put it there" in capsys.readouterr().err


def test_a_report_of_nothing_is_one_clear_line(capsys, tmp_path):
    with pytest.raises(SystemExit):
        report.main([str(tmp_path)])
    assert "holds no rows of a stream" in capsys.readouterr().err


def test_help_lists_options_and_groups(capsys):
    with pytest.raises(SystemExit):
        streams.main(["--help"])
    text = capsys.readouterr().out
    compared = study(stream("permuted_mnist"), 1, 8)
    for name in ("--benchmark", "--best-in", *compared.groups):
        assert name in text


@pytest.mark.parametrize("name", SIGNALS)
def test_sigterm_saves_and_says_how_to_go_on(tiny, tmp_path, capsys, monkeypatch, name):
    assert_sigterm_saves(streams, tmp_path, capsys, monkeypatch, name)


def test_what_cannot_be_written_is_one_clear_line(tiny, tmp_path, capsys):
    assert_names_what_cannot_be_written(streams, tmp_path, capsys)
