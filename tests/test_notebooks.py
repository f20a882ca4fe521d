"""The notebook runs from its first cell to its last, and is committed without outputs.

Its outputs on the site are those of the build: ``docs/conf.py``.
"""

import json
import pathlib
import re

import matplotlib
import pytest

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))


def cells_of(notebook, kind):
    cells = json.loads(notebook.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == kind]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_code_cells_run_one_after_the_other(notebook, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    namespace = {}
    for cell in cells_of(notebook, "code"):
        code = re.sub(r"%pip .*", "pass", "".join(cell["source"]))
        exec(code, namespace)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_left_to_the_build(notebook):
    for cell in cells_of(notebook, "code"):
        assert not cell["outputs"]
        assert cell["execution_count"] is None


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_somewhere(notebook):
    for cell in cells_of(notebook, "markdown"):
        text = "".join(cell["source"])
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (notebook.parent / target).exists(), target
