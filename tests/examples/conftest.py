"""Small experiments."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.runner import trainers
from examples.runner.data import Experiment, Task
from examples.runner.plan import as_json, make_optimizer
from examples.runner.trainer import Trainer
from tests.examples.helpers import preprocess, random_split
from tests.helpers import Network

OPTIMIZERS = {}


def shared_optimizer(kind, zeros):
    shapes = str(jax.tree.map(jnp.shape, zeros))
    key = kind.optimizer, json.dumps(as_json((kind,))), shapes
    if key not in OPTIMIZERS:
        OPTIMIZERS[key] = make_optimizer(kind, zeros)
    return OPTIMIZERS[key]


# As many as a runner keeps: of each program Linux maps hundreds of pieces of memory.
shared_trainer = functools.lru_cache(trainers.MOST)(Trainer)


@pytest.fixture(autouse=True)
def phases_alike_share_a_program(request, monkeypatch):
    """Those of several runners and tests, too: it compiles for seconds."""
    if "few_compiled_functions" not in request.fixturenames:
        monkeypatch.setattr(trainers, "make_optimizer", shared_optimizer)
        monkeypatch.setattr(trainers, "Trainer", shared_trainer)


@pytest.fixture
def density_is_measured():
    """For the tests of it."""


@pytest.fixture(autouse=True)
def density_is_measured_where_it_is_tested(request, monkeypatch):
    """It takes a second program of each trainer's step."""
    if "density_is_measured" not in request.fixturenames:
        monkeypatch.setattr(Trainer, "update_density", lambda *_: np.float32(0.5))


@pytest.fixture
def experiment():
    tasks = {
        "z": Task(random_split(40, 0), random_split(20, 1)),
        "b": Task(random_split(48, 2), random_split(16, 3)),
    }
    return Experiment("tiny", Network, preprocess, tasks, 8)


@pytest.fixture
def three_tasks(experiment):
    tasks = experiment.tasks | {"c": Task(random_split(40, 4), random_split(16, 5))}
    return experiment._replace(tasks=tasks, measure_unseen=True, splits=("test",))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)

    def write(*rows):
        lines = [json.dumps(of_row) for of_row in rows]
        (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
        return tmp_path

    return write
