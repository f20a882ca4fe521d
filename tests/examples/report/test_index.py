"""The committed results: made by the commands that they name, and shown on a page."""

import importlib
import shutil

import pytest

from examples.report import index

RESULTS = index.ROOT / "results"
# The text's fronts are on no page, and the samples are drawn of the data.
NOT_BOTH = {"fronts.png", "fronts.svg", "samples.png", "samples.svg"}
WITH_ROWS = [
    path.parent.relative_to(index.ROOT) for path in sorted(RESULTS.rglob("rows.jsonl"))
]


@pytest.mark.parametrize("folder", WITH_ROWS, ids=lambda path: "-".join(path.parts[1:]))
def test_committed_tables_are_what_their_command_makes(folder, tmp_path, monkeypatch):
    committed = index.ROOT / folder
    (tmp_path / folder).mkdir(parents=True)
    shutil.copy(committed / "rows.jsonl", tmp_path / folder)
    _, _, module, *arguments = index.report(committed).split()
    monkeypatch.chdir(tmp_path)
    importlib.import_module(module).main(arguments)
    made, there = (
        {path.name for path in of.iterdir()} - NOT_BOTH for of in (folder, committed)
    )
    assert made == there
    for path in folder.glob("*.md"):
        assert path.read_text() == (committed / path.name).read_text()


def test_the_tables_of_test_sets_are_included_in_a_page():
    pages = (index.ROOT / "docs" / "results").glob("*.md")
    text = "".join(page.read_text() for page in pages)
    for folder in WITH_ROWS:
        if folder.name == "test":
            assert f"{{include}} ../../{folder}/table.md\n:start-line: 2\n" in text


def test_the_committed_index_is_what_the_command_makes():
    assert (RESULTS / "README.md").read_text() == index.index(index.ROOT)


def test_a_page_shows_every_folder():
    shown = index.pages_by_folder(index.ROOT)
    assert not [folder for folder in index.folders(RESULTS) if folder not in shown]


def test_a_page_shows_every_picture():
    pages = (index.ROOT / "README.md", *(index.ROOT / "docs").rglob("*.md"))
    shown = {target for page in pages for target in index.targets(page)}
    assert not set(RESULTS.rglob("*.png")) - shown


def test_a_picture_of_rows_is_there_as_svg_too_and_is_small():
    for picture in RESULTS.rglob("*.svg"):
        assert picture.with_suffix(".png").exists()
        assert picture.stat().st_size < 200_000
    for folder in WITH_ROWS:
        for picture in (index.ROOT / folder).glob("*.png"):
            assert picture.with_suffix(".svg").exists()


def test_links_and_includes_are_what_a_page_shows(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "See [this](a/table.md#b) and ![that](b/c.png), not [there](https://x.org).\n"
        "```{include} a/summary.md\n```\n"
    )
    shown = [target.relative_to(tmp_path) for target in index.targets(page)]
    assert [path.as_posix() for path in shown] == [
        "a/table.md",
        "b/c.png",
        "a/summary.md",
    ]
