"""What a page reads and draws."""

from examples.report import page
from examples.vision.study import STUDY
from tests.examples.report.made import SETTINGS, row


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
    assert [of_row["seed"] for of_row in lines["SGD"].rows] == [1]
    assert not_drawn == [
        "SGD, 1 of 2 seeds: not finite",
        "CLASSP, Algorithm 1, θ 0.5, 1 of 1 seed: learns no MNIST",
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
