"""Your own stream of tasks: arrays in, a table of methods out.

``python -m examples.your_own_stream``: some seconds; writes ``out/your_own_stream``.
"""

import pathlib
import sys

import jax
import numpy as np
from flax import nnx

from classp_jax.metrics import average_accuracy, forgetting
from examples.methods.replay import Replay
from examples.runner import rows
from examples.runner.data import Experiment, Split, Task
from examples.runner.plan import Method, Phase
from examples.runner.run import Runner

FEATURES, CLASSES, SEEDS = 32, 5, 2


def make_split(centres: np.ndarray, order: np.ndarray, seed: int) -> Split:
    """Your arrays: inputs (n, ...), and labels (n,), integers from 0 on."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, 400).astype(np.int32)
    points = centres[labels] + rng.normal(size=(400, FEATURES))
    return Split(points[:, order].astype(np.float32), labels)


def make_tasks() -> dict[str, Task]:
    """Three tasks, each to train on and held out; here features are permuted."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, FEATURES))
    orders = {name: rng.permutation(FEATURES) for name in ("first", "second", "third")}
    return {
        name: Task(make_split(centres, order, 1), make_split(centres, order, 2))
        for name, order in orders.items()
    }


class MLP(nnx.Module):
    """Your model: its ``dropout_rngs`` is None where it is evaluated."""

    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(FEATURES, 32, rngs=rngs)
        self.out = nnx.Linear(32, CLASSES, rngs=rngs)

    def __call__(
        self, x: jax.Array, *, dropout_rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Gives logits."""
        return self.out(nnx.relu(self.hidden(x)))


def make_methods(tasks: list[str]) -> dict[str, Method]:
    """What to compare; a phase a task."""

    def phases(optimizer: str, *plugins: Replay, **first: bool) -> tuple[Phase, ...]:
        rate = dict(learning_rate=0.1)
        begin = Phase({tasks[0]: 10}, optimizer, rate | first)
        return begin, *(Phase({t: 10}, optimizer, rate, plugins) for t in tasks[1:])

    return {
        "sgd": Method("SGD", phases("sgd")),
        # The decay is off on the first task.
        "classp": Method("CLASSP", phases("classp", apply_decay=False)),
        "replay": Method("Replay", phases("sgd", Replay(None, 8, memory=50))),
    }


def main(folder: pathlib.Path = pathlib.Path("out/your_own_stream")) -> None:
    """Trains what has no row yet, and prints a table."""
    tasks = make_tasks()
    # All tasks are measured after each, also those still to come.
    experiment = Experiment(
        "mine", MLP, lambda x: x, tasks, 16, splits=("test",), measure_unseen=True
    )
    runner = Runner(experiment, folder)
    print("| method | average accuracy | forgetting |\n|---|---:|---:|")
    for name, method in make_methods(list(tasks)).items():
        runner.run(name, method, range(SEEDS))
        there = rows.read(folder / "rows.jsonl")
        found = rows.select(there, method, experiment.settings)
        # A matrix a seed: behind each phase (rows) the accuracy on each task.
        matrices = [
            [[100 * r["accuracy"][t]["test"][0] for t in tasks] for r in row["results"]]
            for row in found
        ]
        average, lost = (
            np.mean([of(np.array(matrix)) for matrix in matrices])
            for of in (average_accuracy, forgetting)
        )
        print(f"| {method.title} | {average:.1f}% | {lost:.1f} points |")


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
