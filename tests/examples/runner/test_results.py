"""What a row says of a phase."""

import optax
import pytest

from examples.methods.ewc import EWC
from examples.methods.replay import Replay
from examples.runner import rows
from examples.runner.plan import Method
from examples.runner.run import Runner
from examples.runner.trainer import Trainer
from tests.examples.helpers import (
    CLASSP,
    COLLECT,
    phase,
    preprocess,
    read,
    three_phases,
)
from tests.helpers import Network


def test_a_task_may_have_no_test_split(experiment, tmp_path):
    tasks = dict(experiment.tasks, z=experiment.tasks["z"]._replace(test=None))
    experiment = experiment._replace(tasks=tasks, curve=("train", 20))
    Runner(experiment, tmp_path).run("classp", CLASSP, [0])
    (row,) = read(tmp_path)
    assert row["settings"]["examples"]["z"] == {"train": 40}
    accuracy = row["results"][-1]["accuracy"]
    assert set(accuracy["z"]) == {"train"}
    assert set(accuracy["b"]) == {"train", "test"}
    method = Method("", CLASSP.phases, ("test",))
    assert len(rows.select(read(tmp_path), method, experiment.settings)) == 1


def test_bytes_a_weight(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    weights = 6 * 8 + 8 + 8 * 3 + 3
    for last, expected in (
        (phase("b"), 0.0),
        (phase("b", plugins=(EWC(strength=1.0),)), 8.0),
        # Four examples of six bytes.
        (phase("b", plugins=(Replay(0.1, 2),)), 4 * 6 / weights),
    ):
        runner.run("", Method("", (COLLECT, last)), [0])
        actual = read(tmp_path)[-1]["results"][-1]["bytes_per_weight"]
        assert actual == pytest.approx(expected, abs=4.1 / weights)


def test_tasks_still_to_come_and_no_training_are_measured(three_tasks, tmp_path):
    Runner(three_tasks, tmp_path).run("sgd", Method("", three_phases()), [0])
    (row,) = read(tmp_path)
    trainer = Trainer(Network, optax.sgd(0.1), preprocess)
    for i, result in enumerate(row["results"]):
        assert {k: set(v) for k, v in result["accuracy"].items()} == {
            task: {"test"} for task in three_tasks.tasks
        }
        assert ("untrained" in result) == (i == 0)
    for name, task in three_tasks.tasks.items():
        expected = trainer.evaluate(trainer.init(0).params, *task.test).dropout_off
        actual = row["results"][0]["untrained"][name]["test"][0]
        assert actual == pytest.approx(float(expected), abs=1e-6)
