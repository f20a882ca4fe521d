import json
import math

import numpy as np
import pytest

from examples import page, report, tables
from examples.methods import as_json
from examples.runner.data import Split, Task
from examples.vision import figures
from examples.vision.methods import STUDY
from examples.vision.report import main
from examples.vision.tables import ablation_table, of_common_seeds

SETTINGS = {"experiment": "vision", "batch_size": 32}
TASKS = ("mnist", "fashion_mnist")
EWC = next(front for front in STUDY.fronts if front.title == "EWC")


def row(
    name,
    seed=0,
    final=(0.9, 0.8),
    after_mnist=0.95,
    finite=True,
    device="2 cores",
    is_open=None,
    **changes,
):
    """A row of results; with dropout 0.1 less, on the training sets 0.01 more."""
    method, results, step = STUDY.methods[name], [], 0
    for index in range(1, len(method.phases) + 1):
        last = index == len(method.phases)
        accuracies = final if last else (after_mnist, 0.1)
        seen = TASKS if last else TASKS[:1]
        step += 10
        results.append(
            {
                "accuracy": {
                    task: {
                        split: [accuracy + more, accuracy + more - 0.1]
                        for split, more in (("train", 0.01), ("test", 0.0))
                        if split in method.splits
                    }
                    for task, accuracy in zip(TASKS, accuracies, strict=True)
                    if task in seen
                },
                "curve": {
                    "step": [0, step],
                    "accuracy": {
                        task: [[0.1, 0.1], [accuracy, accuracy - 0.1]]
                        for task, accuracy in zip(TASKS, accuracies, strict=True)
                    },
                },
                "update_density": 0.2 * index,
                "seconds": 60.0,
                "bytes_per_weight": 8.00001,
                "finite": finite or not last,
                "unassigned_share": 0.25,
                "is_open": is_open,
                "device": device,
                "versions": {"jax": "1.0"},
            }
        )
    made = {
        "method": name,
        "seed": seed,
        "settings": SETTINGS,
        "phases": as_json(method.phases),
        "results": results,
    }
    return made | changes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)

    def write(*rows):
        lines = [json.dumps(of_row) for of_row in rows]
        (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
        return tmp_path

    return write


def lines_of(table):
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


@pytest.mark.parametrize(
    ("values", "digits", "text"),
    [
        ([85.04], 1, "85.0"),
        ([80, 90], 1, "85.0 ± 7.1"),
        ([7, 7, 7], 0, "7"),
        ([80, math.nan], 1, "\N{EN DASH}"),
    ],
)
def test_cell_is_mean_and_sample_deviation(values, digits, text):
    assert report.cell(values, digits) == text


def test_quantities_of_a_row():
    # EWC as in the paper: MNIST in two phases of 10 and 20 steps, then Fashion-MNIST.
    paper = row("ewc_paper", final=(0.6, 0.8), after_mnist=0.9)
    assert report.learned(paper, "mnist") == pytest.approx(90)
    assert report.forgetting(paper, "mnist") == pytest.approx(30)
    assert report.updated(paper, "mnist") == pytest.approx((10 * 20 + 20 * 40) / 30)
    assert report.updated(paper, "fashion_mnist") == pytest.approx(60)
    assert report.boundary(paper, "mnist") == 30
    assert report.accuracy(paper, "mnist", "train", with_dropout=True) == pytest.approx(
        51
    )
    assert math.isnan(report.accuracy(paper, "fashion_mnist", phase=0))
    steps, accuracies = report.curve(paper, "fashion_mnist")
    np.testing.assert_array_equal(steps, [0, 10, 10, 30, 30, 60])
    np.testing.assert_allclose(accuracies, [10, 10, 10, 10, 10, 80])


def test_paper_table_is_measured_as_the_paper_measures():
    found = {
        "classp": [row("classp", 0, (0.9, 0.8)), row("classp", 1, (0.8, 0.8))],
        "sgd": [row("sgd", 0), row("sgd", 1, (0.8, 0.8), finite=False)],
        "classp_threshold": [row("classp_threshold", after_mnist=0.1)],
    }
    table = tables.paper_table(STUDY, found)
    assert lines_of(table) == [
        [
            "CLASSP, Algorithm 1, θ 0.5",
            *("91.05 ± 1.94", "85.53 ± 0.83", "81.00", "71.00", "1.00", "-80.00"),
            "1 (learns no MNIST)",
        ],
        [
            "CLASSP, Algorithm 1, no θ",
            *("80.56 ± 1.55", "85.76 ± 2.19", "76.00 ± 7.07", "71.00"),
            *("86.00", "10.00 ± 7.07", "2"),
        ],
        [
            "SGD",
            *("43.18 ± 0.90", "85.16 ± 0.64", "76.00 ± 7.07", "71.00", "86.00"),
            *("10.00 ± 7.07", "2 (1 of them: not finite)"),
        ],
        [
            "SGD, the others",
            *("43.18 ± 0.90", "85.16 ± 0.64", "81.00", "71.00", "86.00", "5.00", "1"),
        ],
    ]


def test_measured_table_adds_the_best_of_each_front_and_joint_training():
    points = {"ewc_10": (0.7, 0.88), "ewc_100": (0.9, 0.8), "ewc_1000": (0.99, 0.6)}
    found = {name: [row(name, final=final)] for name, final in points.items()}
    found |= {"sgd": [row("sgd")], "joint": [row("joint", final=(0.99, 0.9))]}
    assert tables.best(STUDY, EWC, found) == "ewc_100"
    cells = lines_of(tables.measured_table(STUDY, found))
    costs = ["20.0", "40.0", "8", "1"]
    accuracies = ["91.0", "81.0", "90.0", "80.0", "85.0", "5.0"]
    dashes = ["\N{EN DASH}"] * 2
    assert cells[0] == ["SGD", *accuracies, *costs]
    assert cells[1] == ["EWC, λ 100 (best of 3)", *dashes, *accuracies[2:], *costs]
    assert cells[2][0] == "Joint training"
    assert cells[2][6] == "0.0"
    assert [line[3] for line in lines_of(tables.fronts_table(STUDY, found))] == [
        "79.0",
        "**85.0**",
        "79.5",
    ]


@pytest.mark.parametrize(
    ("changes", "fate"),
    [
        ({}, ""),
        ({"finite": False, "after_mnist": 0.1}, "not finite"),
        ({"after_mnist": 0.1}, "learns no MNIST"),
        ({"final": (0.1, 0.1)}, "ends at chance"),
        ({"final": (0.1, 0.8)}, ""),
        ({"is_open": True}, ""),
        ({"is_open": False}, "its gate never opens"),
    ],
)
def test_fate_says_what_went_wrong(changes, fate):
    assert tables.fate(STUDY, row("sgd", **changes)) == fate


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


def test_training_lines_leave_out_what_went_wrong_and_what_is_the_same():
    names = ("classp", "sgd", "classp_released", "classp_released_threshold")
    found = {name: [row(name)] for name in names}
    found["sgd"] = [row("sgd", 0, finite=False), row("sgd", 1)]
    found["classp_threshold"] = [row("classp_threshold", after_mnist=0.1)]
    names = ["classp", "sgd", *STUDY.groups["paper"]]
    lines, not_drawn = page.training_lines(STUDY, found, names)
    assert list(lines) == [
        "CLASSP, Algorithm 1, no θ",
        "SGD",
        "CLASSP, released, θ 0.5",
    ]
    assert [of_row["seed"] for of_row in lines["SGD"]] == [1]
    assert not_drawn == [
        "SGD, 1 of 2 seeds: not finite",
        "CLASSP, Algorithm 1, θ 0.5, 1 of 1 seeds: learns no MNIST",
        "CLASSP, released, no θ: the same computation as CLASSP, released, θ 0.5",
    ]


def test_read_takes_the_settings_of_most_rows_and_known_methods(folder):
    other = SETTINGS | {"batch_size": 8}
    rows = [row("sgd", 0), row("sgd", 1), row("sgd", 2, settings=other)]
    rows += [row("sgd", 3, phases=[]), row("ewc_10", settings={"experiment": "text"})]
    found, left_out = page.read(STUDY, folder(*rows) / "rows.jsonl")
    assert [of_row["seed"] for of_row in found.pop("sgd")] == [0, 1]
    assert not found
    assert left_out == 3


def test_command_writes_what_the_rows_allow(folder):
    path = folder(row("sgd", 0), row("sgd", 1, device="a GPU"))
    main([str(path)])
    written = {file.name for file in path.iterdir()}
    assert written == {"rows.jsonl", "table.md", "training.png"}
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
    assert written == {f"{name}_with_dropout.png" for name in pictures} | {
        "ablation.md"
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
    assert "With some of the command's seeds alone: sgd 0, 3." in text


def test_the_command_names_the_dtype(folder):
    path = folder(row("sgd", 0, settings=SETTINGS | {"dtype": "bfloat16"}))
    main([str(path)])
    assert " --dtype bfloat16 --out " in (path / "table.md").read_text()


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


def test_help_lists_every_option(capsys):
    with pytest.raises(SystemExit) as info:
        main(["--help"])
    assert info.value.code == 0
    text = capsys.readouterr().out
    for option in ("folder", "--evaluate-with-dropout", "--data-dir"):
        assert option in text
