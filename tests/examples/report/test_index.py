"""The index of the results: what is committed, and where it is shown."""

from examples.report import index

RESULTS = index.ROOT / "results"


def test_the_committed_index_is_what_the_command_makes():
    assert (RESULTS / "README.md").read_text() == index.index(index.ROOT)


def test_a_page_shows_every_folder():
    shown = index.pages_by_folder(index.ROOT)
    assert not [folder for folder in index.folders(RESULTS) if folder not in shown]


def test_a_page_shows_every_picture():
    pages = (index.ROOT / "README.md", *(index.ROOT / "docs").glob("*.md"))
    shown = {target for page in pages for target in index.targets(page)}
    assert not set(RESULTS.rglob("*.png")) - shown


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
