"""The tables that the experiments share."""

import pytest

from examples.report import tables
from examples.vision.study import STUDY
from tests.examples.report.made import EWC, lines_of, row


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


def test_what_fits_no_screen_is_printed_as_the_best_of_each_front():
    fronts = [front for front in STUDY.fronts if len(front.methods) > 5]
    found = {name: [row(name)] for front in fronts for name in front.methods}
    found |= {"sgd": [row("sgd")], "joint": [row("joint")]}
    best = next(iter(EWC.methods))
    found[best] = [row(best, final=(1.0, 1.0))]
    few = tables.to_print(STUDY, found, ["sgd", best, "classp"])
    assert few == {"sgd": found["sgd"], best: found[best]}
    printed = tables.to_print(STUDY, found, None)
    assert {"sgd", "joint", best} <= set(printed)
    assert all(len(printed.keys() & front.methods.keys()) == 1 for front in fronts)
