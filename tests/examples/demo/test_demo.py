import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import classp_jax
from examples.datasets.digits import digits_then_permuted_digits
from examples.demo import report
from examples.demo.__main__ import main
from examples.demo.run import Run
from examples.models.cnn import CNN
from examples.runner.data import Split, Task
from examples.runner.trainer import Trainer


def test_training_learns_and_draws_new_dropout_each_step():
    rng = np.random.default_rng(0)
    data = jnp.asarray(rng.normal(size=(8, 28, 28, 1)), jnp.float32), jnp.arange(8)
    batches = np.tile(np.arange(8), (30, 1))
    trainer = Trainer(CNN, classp_jax.classp(0.0))
    _, losses = trainer.train_steps(trainer.init(0), *data, batches[:2])
    assert losses[0] != losses[1]  # The rate is 0: only the dropout has changed.

    trainer = Trainer(CNN, classp_jax.classp(0.1, apply_decay=False))
    state, _ = trainer.train_steps(trainer.init(0), *data, batches)
    assert trainer.accuracy(state.params, *data).dropout_off == 1.0
    one_by_one, train_step = trainer.init(0), jax.jit(trainer.train_step)
    for batch in batches[:3]:
        one_by_one, loss = train_step(one_by_one, *data, batch)
    _, losses = trainer.train_steps(trainer.init(0), *data, batches, 3)
    np.testing.assert_allclose(losses[2], loss, rtol=1e-4)


def test_demo_prints_its_table_and_writes_its_figure(tmp_path, capsys, monkeypatch):
    def some(seed):
        return {
            name: Task(*(Split(x[:40], y[:40]) for x, y in task))
            for name, task in digits_then_permuted_digits(seed).items()
        }

    monkeypatch.setattr("examples.demo.__main__.digits_then_permuted_digits", some)
    arguments = "--methods sgd classp --epochs 1 1 --batch-size 20 --out"
    main([*arguments.split(), str(tmp_path / "new" / "folder")])
    output = capsys.readouterr().out
    figure = tmp_path / "new" / "folder" / "demo.png"
    assert str(figure) in output
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert figure.with_suffix(".md").read_text() in output
    rows = [line for line in output.splitlines() if line.startswith("|")][2:]
    assert [row.split(" | ")[0] for row in rows] == ["| SGD", "| CLASSP"]
    assert [row.split(" | ")[-1] for row in rows] == ["0.0 |", "4.0 |"]


def test_a_sweep_cut_short_leaves_its_rows(tmp_path, monkeypatch):
    def train(method, *args):
        if method.title == "Adam":
            raise KeyboardInterrupt
        return Run(np.array([0, 5, 9]), np.zeros((3, 2)), 5, 7.0, 0.0)

    monkeypatch.setattr("examples.demo.__main__.train", train)
    with pytest.raises(KeyboardInterrupt):
        main(["--methods", "sgd", "adam", "--out", str(tmp_path)])
    assert "| SGD | 0.0 " in (tmp_path / "demo.md").read_text()
    assert (tmp_path / "demo.png").exists()


def test_ctrl_c_is_one_line_and_leaves_the_rows(tmp_path, monkeypatch, capsys):
    def train(method, *args):
        if method.title == "Adam":
            os.kill(os.getpid(), signal.SIGINT)
        return Run(np.array([0, 5, 9]), np.zeros((3, 2)), 5, 7.0, 0.0)

    monkeypatch.setattr("examples.demo.__main__.train", train)
    with pytest.raises(SystemExit) as info:
        main(["--methods", "sgd", "adam", "--out", str(tmp_path)])
    assert info.value.code == 0
    assert capsys.readouterr().err == (
        "Stopped by Ctrl-C; to begin anew: python -m examples.demo --methods sgd adam"
        f" --out {tmp_path}\n"
    )
    assert "| SGD | 0.0 " in (tmp_path / "demo.md").read_text()
    assert "| Adam |" not in (tmp_path / "demo.md").read_text()


def test_table_means_over_seeds():
    def run(*accuracy):
        return Run(np.array([0, 5, 9]), np.array(accuracy), 5, 7.0, 8.0)

    one = run([0.1, 0.1], [0.9, 0.2], [0.7, 0.8])
    two = run([0.1, 0.1], [0.8, 0.2], [0.7, 0.9])
    single, mean = report.table({"one": [one], "both": [one, two]}).splitlines()[2:]
    assert single == "| one | 90.0 | 70.0 | 80.0 | 75.0 | 20.0 | 7 | 8.0 |"
    assert mean == (
        "| both | 85.0 ± 7.1 | 70.0 | 85.0 ± 7.1 | 77.5 ± 3.5 | 15.0 ± 7.1 | 7 | 8.0 |"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--methods rmsprop", "invalid choice: 'rmsprop'"),
        ("--epochs 0 1", "must be 1 or more, got 0"),
        ("--seed -1", "must be 0 or more, below 2**31, got -1"),
        ("--out pyproject.toml", "File exists"),
        ("--batch-size 4001", "at most 4000"),
        ("--threshold -1", "threshold must be finite and at least 0"),
        ("--learning-rate nan", "must be finite and above 0, got nan"),
    ],
)
def test_demo_names_what_is_wrong(arguments, message, capsys):
    with pytest.raises(SystemExit) as info:
        main(arguments.split())
    assert info.value.code == 2
    assert message in capsys.readouterr().err
