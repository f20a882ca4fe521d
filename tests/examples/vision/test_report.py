"""The report of the vision experiment."""

import numpy as np
import pytest

from examples.runner.data import Split, Task
from examples.vision import figures
from examples.vision.report import main
from examples.vision.tables import (
    SUMMARY,
    ablation_table,
    of_common_seeds,
    threshold_table,
)
from tests.examples.report.made import SETTINGS, TASKS, lines_of, row


def test_ablation_table_has_the_point_without_a_threshold_once_a_kind():
    names = [
        "threshold_second_absolute_all_0",
        "threshold_second_absolute_masked_0",
        "threshold_both_relative_masked_0",
        "threshold_both_relative_masked_0.1",
        "threshold_first_absolute_all_1e-06",
    ]
    cells = lines_of(ablation_table({name: [row(name)] for name in names}))
    assert [line[:3] for line in cells] == [
        ["second task", "0", "all"],
        ["first task", "1e-06", "all"],
        ["both tasks", "0·mean(g²)", "all"],
        ["both tasks", "0.1·mean(g²)", "above it"],
    ]
    measured = ["95.0", "90.0", "80.0", "20.00", "40.00", "25.0", "1"]
    assert cells[0][3:] == measured


def test_points_of_a_kind_are_compared_on_the_seeds_that_all_have():
    seeds_of = {
        "threshold_first_relative_all_0": (0, 1, 2),
        "threshold_first_relative_masked_0.1": (2, 1),
        "threshold_first_absolute_all_0": (0, 1, 2),
        "threshold_first_absolute_all_1e-06": (0,),
        "threshold_both_absolute_all_1e-06": (3,),
        "threshold_both_absolute_all_1e-05": (4,),
    }
    found = {
        name: [row(name, seed) for seed in seeds] for name, seeds in seeds_of.items()
    }
    paired = of_common_seeds(found | {"sgd": [row("sgd")]})
    assert {name: [r["seed"] for r in rows] for name, rows in paired.items()} == {
        "threshold_first_relative_all_0": [1, 2],
        "threshold_first_relative_masked_0.1": [2, 1],
        "threshold_first_absolute_all_0": [0],
        "threshold_first_absolute_all_1e-06": [0],
        "threshold_both_absolute_all_1e-06": [3],
        "threshold_both_absolute_all_1e-05": [4],
    }


def test_the_ablation_is_of_the_seeds_that_all_points_have(folder):
    names = [f"threshold_first_relative_all_{threshold}" for threshold in (0, 0.1, 1)]
    rows = [row(name, seed) for name in names for seed in (0, 1)]
    path = folder(*rows[:-1])
    main([str(path)])
    text = (path / "ablation.md").read_text()
    seeds = {tuple(line[:2]): line[-1] for line in lines_of(text.split("\n\n")[0])}
    of_a_kind = [("first task", f"{threshold}·mean(g²)") for threshold in (0, 0.1, 1)]
    assert [seeds[what] for what in of_a_kind] == ["1", "1", "1"]
    assert seeds["second task", "0"] == "2"


def test_command_writes_what_the_rows_allow(folder):
    path = folder(row("sgd", 0), row("sgd", 1, device="a GPU"))
    main([str(path)])
    written = {file.name for file in path.iterdir()}
    assert written == {"rows.jsonl", "table.md", "training.png", "training.svg"}
    text = (path / "table.md").read_text()
    command = "python -m examples.vision --methods sgd --seeds 2 --batch-size 32"
    assert f"{command} --out {path.name}\n" in text
    assert str(path) not in text
    assert "- 2 phases trained on a GPU, jax 1.0" in text

    names = ["ewc_10", "ewc_100", "joint", "classp"]
    names.append("threshold_first_relative_all_1")
    main([str(folder(*map(row, names))), "--evaluate-with-dropout"])
    written = {file.name for file in path.iterdir()} - written
    pictures = {"fronts", "training", "ablation"}
    assert written == {"ablation.md"} | {
        f"{name}_with_dropout.{kind}" for name in pictures for kind in ("png", "svg")
    }
    for name in pictures:
        file = path / f"{name}_with_dropout.png"
        assert file.read_bytes().startswith(b"\x89PNG")


def test_the_commands_seeds_that_have_no_row_are_told(folder):
    path = folder(row("sgd", 0), row("sgd", 3), row("joint", 0), row("joint", 1))
    main([str(path)])
    text = (path / "table.md").read_text()
    assert "--methods sgd --seeds 4 " in text
    assert "--methods joint --seeds 2 " in text
    assert "\n\nOf some methods only these seeds: sgd 0, 3." in text


def test_the_command_names_the_dtype(folder):
    path = folder(row("sgd", 0, settings=SETTINGS | {"dtype": "bfloat16"}))
    main([str(path)])
    assert " --dtype bfloat16 --out " in (path / "table.md").read_text()


def test_tables_alone_are_made_where_no_figures_are_wanted(folder):
    names = ["ewc_10", "ewc_100", "threshold_first_relative_all_1"]
    path = folder(*map(row, names))
    main([str(path), "--no-figures"])
    written = {file.name for file in path.iterdir()}
    assert written == {"rows.jsonl", "table.md", "ablation.md"}
    text = (path / "table.md").read_text()
    assert f"examples.vision.report {path.name} --no-figures\n" in text
    assert ".png" not in text


def test_the_summary_is_of_some_methods_and_made_where_all_were_run(folder):
    path = folder(*map(row, SUMMARY))
    main([str(path), "--no-figures"])
    lines = lines_of((path / "summary.md").read_text())
    assert [line[1:] for line in lines] == [["90.0", "80.0", "8", "1"]] * len(SUMMARY)
    assert lines[0][0] == "CLASSP, α 0.2"


def test_thresholds_are_shown_by_task_and_sum():
    one = row("threshold_both_relative_masked_3", final=(0.7, 0.6))
    found = {"threshold_both_relative_masked_3": [one]}
    dash = "\N{EN DASH}"
    lines = lines_of(threshold_table(found))
    assert lines[0] == ["the first task", "all gradients", *[dash] * 4]
    assert lines[3][:2] == ["both", "those that pass"]
    assert lines[3][2:] == [dash, dash, "70.0 / 60.0", dash]


def test_samples_are_drawn(tmp_path):
    images = np.zeros((40, 28, 28, 1), np.uint8)
    split = Split(images, np.arange(40, dtype=np.int32) % 10)
    tasks = dict.fromkeys(TASKS, Task(split))
    figures.save_samples(tasks, tmp_path / "samples.png")
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no rows of this experiment; make some with"),
        ("", "holds no rows of this experiment"),
        ('{"method": \n', "line 1 is no JSON"),
        ('{"method": "sgd"}', "line 1 is no row of results"),
        ("[]", "line 1 is no row of results"),
    ],
)
def test_command_names_what_is_wrong(content, message, tmp_path, capsys):
    if content is not None:
        (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(SystemExit) as info:
        main([str(tmp_path)])
    assert info.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
