import pathlib
import shutil

import pytest

from examples.streams import recipe

COMMITTED = pathlib.Path(__file__).parents[3] / "results" / "streams"


def copy_rows(folder):
    for panel in recipe.PANELS:
        (folder / panel.stream).mkdir(parents=True, exist_ok=True)
        shutil.copy(COMMITTED / panel.stream / "rows.jsonl", folder / panel.stream)


def test_the_committed_page_is_what_the_command_makes(tmp_path, capsys):
    copy_rows(tmp_path)
    recipe.main([str(tmp_path)])
    page = (tmp_path / "recipe.md").read_text()
    assert page == (COMMITTED / "recipe.md").read_text()
    assert page.count(f"| {recipe.LEARNED} | {recipe.LEFT} |") == len(recipe.PANELS)
    said = capsys.readouterr().out
    assert "recipe.png" in said and recipe.LEFT in said
    assert (tmp_path / "recipe.png").read_bytes()[:4] == b"\x89PNG"


def test_a_setting_too_small_learns_little_and_one_too_large_forgets():
    """What docs/choosing.md reads off each panel, but where no value is too small."""
    for panel in recipe.PANELS:
        _, points = recipe.points(COMMITTED, panel)
        (_, little, kept), *_, (_, much, left) = points
        assert little - kept < 3 < 10 < much - left
        assert little < much


def test_rows_that_are_missing_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        recipe.main([str(tmp_path)])
    assert recipe.PANELS[0].stream in capsys.readouterr().err
