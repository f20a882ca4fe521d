"""The pages say the truth: snippets run, links lead somewhere, what is named is there.

What they say of the results is in test_pages.py.
"""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
    ROOT / name
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "docs/benchmarks.md",
        "docs/performance.md",
        "docs/reliability.md",
        "docs/reproduction.md",
        "docs/theory.md",
    )
]


def test_python_snippets_run_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) >= 4
    namespace = {}
    for snippet in snippets:
        exec(snippet, namespace)


@pytest.mark.parametrize(
    "result", ["demo/demo.md", "speed/train_step.md", "verify/verify.txt"]
)
def test_tables_are_the_committed_results(result):
    assert (ROOT / "results" / result).read_text().strip() in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", prose):
        assert (page.parent / target).exists(), target


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", README):
        assert f"\n{target}:" in makefile, target


@pytest.mark.parametrize(("page", "least"), [("reliability", 40), ("theory", 12)])
def test_tests_named_are_there(page, least):
    page = (ROOT / f"docs/{page}.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    code = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > least
    assert not {name for name in named if f"def {name}(" not in code}


def test_the_tree_that_is_drawn_is_there():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    (tree,) = re.findall(r"```\n(classp_jax/.*?)```", page, re.DOTALL)
    folder = ROOT
    for line in tree.splitlines():
        indent, names = re.match(r"( *)((?:[\w.]+(?:/|\.py) ?)+)", line).groups()
        parent = folder if indent else ROOT
        for name in names.split():
            assert (parent / name).exists(), name
        folder = parent if indent else ROOT / names.split()[0]
