"""The examples that teach: short, of one framework alone, and true."""

import ast
import pathlib
import re

import pytest

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

FOLDER = pathlib.Path(two_tasks.__file__).parent
ALWAYS = {"__future__", "classp_jax", "jax", "numpy", "optax", "pathlib", "sys"}
FRAMEWORKS = {
    two_tasks: set(),
    unannounced: set(),
    flax_nnx: {"flax"},
    flax_linen: {"flax"},
    equinox_mlp: {"equinox"},
    from_adam: set(),
    from_pytorch: {"torch"},
    your_own_stream: {"flax", "examples"},
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
    mean = from_adam.main()
    assert max(mean, key=mean.get) == "CLASSP"
    assert mean["CLASSP"] > 0.93
    assert "hidden: sum" in capsys.readouterr().out


def test_your_own_stream(tmp_path, capsys):
    your_own_stream.main(tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if line[:1] == "|"]
    averages = {
        title.strip(): float(average.strip(" %"))
        for title, average, _ in (line.strip("|").split("|") for line in lines[2:])
    }
    assert averages["SGD"] < averages["CLASSP"]
    # A second call trains nothing: the rows are there.
    rows = (tmp_path / "rows.jsonl").read_text()
    your_own_stream.main(tmp_path)
    assert (tmp_path / "rows.jsonl").read_text() == rows


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
