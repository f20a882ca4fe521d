"""Small experiments."""

import json

import pytest

from examples.runner.data import Experiment, Task
from tests.examples.helpers import preprocess, random_split
from tests.helpers import Network


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
