import os
import signal

import numpy as np
import pytest

from examples.demo import __main__ as demo
from examples.demo import report
from examples.demo.report import Learned
from examples.report import index
from examples.runner.data import Split, Task
from examples.runner.plan import OTHER, Method
from examples.runner.run import Runner
from examples.streams import report as of_sweep
from examples.streams.tables import average


@pytest.fixture
def few_digits(monkeypatch):
    tasks = demo.STREAM.load()
    few = {
        name: Task(*(Split(x[:40], y[:40]) for x, y in task))
        for name, task in tasks.items()
    }
    monkeypatch.setattr(type(demo.STREAM), "load", lambda self: few)


def rows_of(text):
    return [line.strip("| ").split(" | ") for line in text.splitlines() if "|" in line]


def test_demo_prints_its_table_and_writes_its_figure(few_digits, tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    options = ["--methods", "sgd", "classp", "--epochs", "1", "--seeds", "2"]
    demo.main([*options, "--out", str(folder)])
    output = capsys.readouterr().out
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")
    for name in ("demo.md", "demo.png", "demo.svg"):
        assert str(folder / name) in output and (folder / name).exists()
    text = (folder / "demo.md").read_text()
    assert text in output
    header, _, *rows = rows_of(text)
    assert [row[0] for row in rows] == ["SGD", "CLASSP"]
    assert [row[header.index("bytes per weight")] for row in rows] == ["0.0", "4.0"]


def test_ctrl_c_is_one_line_and_leaves_the_rows(
    few_digits, tmp_path, monkeypatch, capsys
):
    train = Runner.train

    def interrupted(self, phases, seeds, title="", *more):
        if title == "CLASSP":
            os.kill(os.getpid(), signal.SIGINT)
        return train(self, phases, seeds, title, *more)

    monkeypatch.setattr(Runner, "train", interrupted)
    options = f"--methods sgd classp --epochs 1 --seed 0 --out {tmp_path}"
    with pytest.raises(SystemExit) as info:
        demo.main(options.split())
    assert info.value.code == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert (
        last == f"Stopped by Ctrl-C; to begin anew: python -m examples.demo {options}"
    )
    text = (tmp_path / "demo.md").read_text()
    assert [row[0] for row in rows_of(text)[2:]] == ["SGD"]


def test_table_means_over_seeds(tmp_path):
    def learned(label, *accuracies):
        method = Method(f"{label}, α 1", (), family=OTHER)
        return Learned(label, method, np.array(accuracies), 8.0, 7.4)

    one, two = [[90.0, 20.0], [70.0, 80.0]], [[80.0, 20.0], [70.0, 90.0]]
    both = [learned("one", one), learned("both", one, two)]
    report.write(both, "What.", tmp_path / "demo.md")
    text = (tmp_path / "demo.md").read_text()
    assert "What. Settings: one, α 1; both, α 1. Made on " in text
    single, mean = text.splitlines()[2:4]
    assert single == "| one | 75.0 | 90.0 | 70.0 | 20.0 | 8.0 | 7 |"
    assert mean == ("| both | 77.5 ± 3.5 | 85.0 ± 7.1 | 70.0 | 15.0 ± 7.1 | 8.0 | 7 |")


def test_each_method_has_the_best_of_as_many_settings_in_the_sweep():
    compared, found = of_sweep.read(index.ROOT / "results" / "demo" / "sweep")
    fronts = {name: front for front in compared.fronts for name in front.methods}
    for _, setting in demo.METHODS.values():
        family = fronts[setting].family
        averages = {
            name: np.mean([average(compared, row) for row in of])
            for name, of in found.items()
            if fronts[name].family == family
        }
        assert len(averages) == 9
        assert averages[setting] == max(averages.values())
    settings = next(iter(found.values()))[0]["settings"]
    made = {**demo.STREAM._asdict(), "model": demo.MODEL, "batch_size": demo.BATCH_SIZE}
    assert settings["validation"] and settings["seed"] != demo.STREAM.seed
    for name in ("benchmark", "tasks", "model", "batch_size"):
        assert settings[name] == made[name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--methods rmsprop", "invalid choice: 'rmsprop'"),
        ("--epochs 0", "must be 1 or more, got 0"),
        ("--seed -1", "must be 0 or more, below 2**31, got -1"),
        ("--out pyproject.toml", "File exists"),
    ],
)
def test_demo_names_what_is_wrong(arguments, message, capsys):
    with pytest.raises(SystemExit) as info:
        demo.main(arguments.split())
    assert info.value.code == 2
    assert message in capsys.readouterr().err


def test_help_fits_a_screen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as info:
        demo.main(["--help"])
    assert info.value.code == 0
    text = capsys.readouterr().out
    assert text.count("\n") <= 24
    for option in ["methods", "epochs", "seeds", "seed", "out"]:
        assert f"--{option}" in text
