"""The examples that teach: short, of one framework alone, and true."""

import ast
import functools
import pathlib
import re

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from examples import (
    equinox_mlp,
    flax_linen,
    flax_nnx,
    from_adam,
    from_pytorch,
    two_tasks,
    unannounced,
    your_own_stream,
)
from examples.report import index
from tests import pages

FOLDER = pathlib.Path(two_tasks.__file__).parent
STANDARD = {"__future__", "pathlib", "sys", "typing"}
ALWAYS = STANDARD | {"classp_jax", "jax", "numpy", "optax"}
FRAMEWORKS = {
    two_tasks: set(),
    unannounced: set(),
    flax_nnx: {"flax"},
    flax_linen: {"flax"},
    equinox_mlp: {"equinox"},
    from_adam: set(),
    from_pytorch: {"torch"},
    your_own_stream: {"flax", "matplotlib", "mlxtend", "tensorflow_datasets"},
}


@pytest.mark.parametrize("example", FRAMEWORKS, ids=lambda module: module.__name__)
def test_it_is_short_and_imports_one_framework_alone(example):
    text = pathlib.Path(example.__file__).read_text()
    assert text.count("\n") < 100
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
    assert imported - ALWAYS == FRAMEWORKS[example]


def test_every_example_is_listed_here_and_in_the_readme():
    files = {path.name for path in FOLDER.glob("*.py")} - {"__init__.py"}
    assert files == {pathlib.Path(module.__file__).name for module in FRAMEWORKS}
    readme = (FOLDER / "README.md").read_text()
    assert all(name in readme for name in files)


def test_two_tasks():
    kept = two_tasks.main()
    assert kept["CLASSP"] > 0.8 > 0.65 > kept["SGD"]


def test_unannounced():
    assert unannounced.CHANGE <= unannounced.main() < unannounced.CHANGE + 10


@pytest.mark.parametrize(
    "example", [flax_nnx, flax_linen, equinox_mlp], ids=lambda module: module.__name__
)
def test_frameworks(example):
    assert example.main() > 0.8


def test_from_pytorch():
    assert from_pytorch.main() > 0.75


def test_from_adam(capsys):
    *without, of_data, of_adam = from_adam.main().values()
    assert min(of_data, of_adam) > max(0.93, *without)
    assert "hidden: sum" in capsys.readouterr().out


# The digits are text, which takes seconds to read.
load_once = functools.cache(your_own_stream.load)


def try_few(monkeypatch, **settings):
    """Trains with fewer seeds, optimizers and settings."""
    grids = {
        title: (your_own_stream.OPTIMIZERS[title][0], np.array(of_title))
        for title, of_title in settings.items()
    }
    monkeypatch.setattr(your_own_stream, "OPTIMIZERS", grids)
    monkeypatch.setattr(your_own_stream, "load", load_once)
    monkeypatch.setattr(your_own_stream, "SEEDS", [1, 2])


def test_your_own_stream_tries_as_many_settings_of_each_optimizer():
    grids = [grid for _, grid in your_own_stream.OPTIMIZERS.values()]
    assert {len(grid) for grid in grids} == {len(your_own_stream.GRID)}


def test_your_own_stream(tmp_path, capsys, monkeypatch):
    sgd = [9e-6, 9e-4, 0.9]
    try_few(monkeypatch, SGD=sgd, Adam=[3e-5], CLASSP=[0.003], classp_gram=[0.9])
    your_own_stream.main(out=str(tmp_path))
    text = (tmp_path / "table.md").read_text()
    (table,) = pages.tables(text)
    assert [*table.column("setting").values()] == ["0.0009", "3e-05", "0.003", "0.9"]
    average, learned = (
        {title: float(cell.partition(" ± ")[0]) for title, cell in column.items()}
        for column in map(table.column, ("average accuracy", "just learned"))
    )
    assert average["SGD"] < average["CLASSP"] < average["classp_gram"]
    assert min(learned.values()) > 85
    assert "learned task" not in text and (tmp_path / "accuracy.png").exists()
    said = capsys.readouterr().out
    assert said.startswith("SGD | 9e-06: ") and text in said


def test_your_own_stream_says_what_was_not_learned(tmp_path, monkeypatch):
    try_few(monkeypatch, SGD=[9e-6])
    your_own_stream.main(out=str(tmp_path))
    text = (tmp_path / "table.md").read_text()
    assert re.search(r"^SGD hasn't learned task \[.*2.*\]: raise STEPS", text, re.M)


def test_your_own_stream_takes_the_name_of_a_data_set(monkeypatch):
    def data_source(name, split):
        images = [
            {"image": np.full((2, 3, 1), i, np.uint8), "label": i} for i in (0, 1)
        ]
        return [images[: 1 + (name, of).count("test")] for of in split]

    monkeypatch.setattr("tensorflow_datasets.data_source", data_source)
    train, held_out, (inputs, labels) = your_own_stream.load("mnist")
    assert [len(of) for of in (*train, *held_out)] == [1, 1, 1, 1]
    assert inputs.shape == (2, 6) and labels.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["", "fashion_mnist"])
def test_the_committed_tables_are_those_of_the_files_settings(name):
    (table,) = pages.of_results(f"your_own_stream/{name}/table.md")
    for title, setting in table.column("setting").items():
        grid = your_own_stream.OPTIMIZERS[title][1]
        assert setting in [f"{value:.2g}" for value in grid[1:-1]]
    assert table.column("setting").keys() == your_own_stream.OPTIMIZERS.keys()


def test_your_own_stream_trains_batch_norm(monkeypatch):
    monkeypatch.setattr(your_own_stream, "STEPS", 2)
    models = [your_own_stream.make_model(nnx.Rngs(0)) for _ in range(2)]
    monkeypatch.setattr(your_own_stream, "make_model", lambda rngs: models[0])
    task = np.ones((4, 784), np.float32), np.array([0, 1, 0, 1])
    your_own_stream.learn(optax.sgd(0.1), [task], [task], 0)
    trained, before = (nnx.state(model, nnx.BatchStat) for model in models)
    assert not np.allclose(*(jax.tree.leaves(of)[0] for of in (trained, before)))


@pytest.mark.parametrize("experiment", ["demo", "vision", "sentiment", "streams"])
def test_the_tables_of_an_experiments_readme_are_those_of_results(experiment):
    readme = FOLDER / experiment / "README.md"
    lines = readme.read_text().splitlines()
    table = {line for line in lines if line.startswith("|")}
    assert len(table) > 3
    linked = [file for file in index.targets(readme) if "results" in file.parts]
    pages = [file.read_text() for file in linked if file.suffix == ".md"]
    assert any(table <= set(page.splitlines()) for page in pages)


def test_every_file_that_a_readme_names_is_there():
    for readme in FOLDER.rglob("README.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", readme.read_text()):
            if not target.startswith("http"):
                assert (readme.parent / target).exists(), f"{readme}: {target}"
