"""The README says the truth: its snippets run and its tables are the results'."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_python_snippets_run_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) >= 4
    namespace = {}
    for snippet in snippets:
        exec(snippet, namespace)


@pytest.mark.parametrize("result", ["demo.md", "train_step.md", "verify.txt"])
def test_tables_are_the_committed_results(result):
    assert (ROOT / "results" / result).read_text().strip() in README


def test_links_within_the_repository_lead_somewhere():
    for page in (README, (ROOT / "CONTRIBUTING.md").read_text()):
        prose = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", prose):
            assert (ROOT / target).exists(), target


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", README):
        assert f"\n{target}:" in makefile, target
