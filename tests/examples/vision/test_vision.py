import json

import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import classp_jax
from examples.datasets.tfds import DatasetError
from examples.runner import rows
from examples.runner.data import Split, Task
from examples.runner.plan import as_json, make_optimizer
from examples.runner.trainer import Trainer
from examples.vision import __main__ as vision
from examples.vision.ablation import ABLATION
from examples.vision.phases import COLLECT
from examples.vision.study import STUDY
from tests.examples.helpers import (
    SIGNALS,
    assert_names_what_cannot_be_written,
    assert_names_what_is_wrong,
    assert_prints_what_it_wrote,
    assert_sigterm_saves,
)
from tests.helpers import Network


def test_a_closed_gate_without_threshold_is_one_computation():
    """The first phase that several rows of the table share.

    To rounding alone: XLA fuses each of them in its own way.
    """
    rng = np.random.default_rng(0)
    data = jnp.asarray(rng.normal(size=(40, 6)), jnp.float32), jnp.arange(40) % 3
    batches = rng.integers(0, 40, (20, 8))

    def outcome(optimizer):
        trainer = Trainer(Network, optimizer)
        state, _ = trainer.train_steps(trainer.init(0), *data, batches)
        return state.params, optax.tree.get(state.opt_state, "grad_sum")

    params, grad_sum = outcome(make_optimizer(COLLECT))
    closed = dict(learning_rate=0.2, apply_decay=False)
    for optimizer in (
        classp_jax.classp_equation1(**closed),
        classp_jax.classp_released(**closed),
        classp_jax.classp_released(**closed, threshold=0.5),
    ):
        chex.assert_trees_all_close(
            outcome(optimizer), (params, grad_sum), rtol=1e-5, atol=1e-6
        )
    for optimizer in (optax.sgd(0.2), classp_jax.classp_gram(**closed)):
        chex.assert_trees_all_close(outcome(optimizer)[0], params, rtol=1e-5, atol=1e-6)
    # Which isn't to say that all are: a threshold of 0.5 stops Algorithm 1.
    stopped, _ = outcome(classp_jax.classp(**closed, threshold=0.5))
    assert np.any(stopped.hidden.kernel[...] != params.hidden.kernel[...])


def test_methods():
    assert set(STUDY.published) == set(STUDY.groups["paper"])
    for method in STUDY.methods.values():
        # All learn MNIST for 4 epochs and Fashion-MNIST for 1.
        epochs = {}
        for phase in method.phases:
            for task, count in phase.epochs.items():
                epochs[task] = epochs.get(task, 0) + count
            if not phase.plugins:
                make_optimizer(phase)
        assert epochs == {"mnist": 4, "fashion_mnist": 1}
    for front in STUDY.fronts:
        different = {json.dumps(as_json(m.phases)) for m in front.methods.values()}
        assert len(different) == len(front.methods) >= 5
    for ablation in ABLATION.values():
        first, second = (
            phase.hyperparameters.get("threshold", 0)
            for phase in ablation.method.phases
        )
        expected = {
            "first": (ablation.threshold, 0),
            "second": (0, ablation.threshold),
            "both": (ablation.threshold,) * 2,
        }
        assert (first, second) == expected[ablation.where]


@pytest.fixture
def tiny(monkeypatch):
    rng = np.random.default_rng(0)

    def split(n):
        images = rng.integers(0, 256, (n, 28, 28, 1)).astype(np.uint8)
        return Split(images, (np.arange(n) % 10).astype(np.int32))

    tasks = {name: Task(split(32), split(20)) for name in ("mnist", "fashion_mnist")}
    monkeypatch.setattr(vision, "load", lambda data_dir: tasks)


def test_one_command_makes_rows_tables_and_figures(tiny, tmp_path, capsys):
    arguments = ["--seeds", "1", "--batch-size", "16", "--out", str(tmp_path / "new")]
    methods = ["sgd", "classp", "classp_rate_0.1"]
    vision.main([*arguments, "--methods", *methods])
    found = rows.read(tmp_path / "new" / "rows.jsonl")
    assert [row["method"] for row in found] == methods
    table = (tmp_path / "new" / "table.md").read_text()
    assert "SGD" in table
    assert "CLASSP, α 0.1" in table
    for name in ("fronts", "samples"):
        figure = tmp_path / "new" / f"{name}.png"
        assert figure.read_bytes().startswith(b"\x89PNG")
    text = capsys.readouterr().out
    assert_prints_what_it_wrote(text, tmp_path / "new", "fronts.png", "samples.png")
    titles = [line.split(" | ")[0] for line in text.splitlines() if line[:1] == "|"]
    assert titles[2:] == [
        "| CLASSP, Algorithm 1, no θ",
        "| SGD",
        "| CLASSP, α 0.1 (best of 1)",
    ]
    # A second call finds all done, and shows its own alone.
    vision.main([*arguments, "--methods", "classp"])
    text = capsys.readouterr().out
    assert "| CLASSP, Algorithm 1, no θ |" in text and "| SGD |" not in text
    assert len(rows.read(tmp_path / "new" / "rows.jsonl")) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--methods rmsprop", "invalid choice: 'rmsprop' (closest: none is close;"),
        ("--methods clasp", "invalid choice: 'clasp' (closest: classp;"),
        ("--seeds 0", "must be 1 or more, got 0"),
        ("--vmap-seeds 0", "must be 1 or more, got 0"),
        ("--out pyproject.toml", "File exists"),
        ("--batch-size 64 --methods sgd", "at most 32"),
        ("--batch-size 8 --methods sgd replay_0.1", "must be above 8"),
    ],
)
def test_names_what_is_wrong(tiny, arguments, message, capsys, tmp_path):
    assert_names_what_is_wrong(vision, arguments, message, capsys, tmp_path)


def test_damaged_rows_are_named(tiny, capsys, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"method": \n')
    with pytest.raises(SystemExit):
        vision.main(["--out", str(tmp_path)])
    assert "line 1 is no JSON" in capsys.readouterr().err


def test_missing_data_is_one_clear_line(monkeypatch, capsys, tmp_path):
    def missing(data_dir):
        raise DatasetError("put it there")

    monkeypatch.setattr(vision, "load", missing)
    with pytest.raises(SystemExit):
        vision.main(["--out", str(tmp_path)])
    assert "put it there" in capsys.readouterr().err


class Linear(nnx.Module):
    """What compiles in no time."""

    def __init__(self, rngs):
        self.out = nnx.Linear(28 * 28, 10, rngs=rngs)

    def __call__(self, x, *, dropout_rngs=None):
        return self.out(x.reshape(len(x), -1))


@pytest.mark.parametrize("name", SIGNALS)
def test_sigterm_saves_and_says_how_to_go_on(tiny, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr(vision, "CNN", Linear)
    assert_sigterm_saves(vision, tmp_path, capsys, monkeypatch, name)


def test_what_cannot_be_written_is_one_clear_line(tiny, tmp_path, capsys):
    assert_names_what_cannot_be_written(vision, tmp_path, capsys)
