"""The pages say the truth: snippets run, links lead somewhere, what is named is there.

What they say of the results is in test_pages.py.
"""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def snippets_of(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", [*filter(snippets_of, PAGES)], ids=name_of)
def test_python_snippets_run_as_written_one_after_the_other(
    page, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for snippet in snippets_of(page):
        exec(snippet, namespace)


@pytest.mark.parametrize("result", ["speed/train_step.md", "verify/verify.txt"])
def test_results_that_pages_paste_are_the_committed_ones(result):
    """Where a page has a result's first line, it has all of it."""
    said = (ROOT / "results" / result).read_text().strip()
    first = said.partition("\n")[0]
    texts = [page.read_text() for page in PAGES]
    assert all(said in text for text in texts if first in text)
    assert any(first in text or f"results/{result}\n" in text for text in texts)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_within_the_repository_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", prose):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", page.read_text()):
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
