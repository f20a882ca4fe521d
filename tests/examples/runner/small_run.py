"""A run to interrupt: python -m tests.examples.runner.small_run FOLDER EPOCHS."""

import pathlib
import sys

import numpy as np

from examples.runner import checkpoints, side_by_side
from examples.runner.checkpoints import Saving
from examples.runner.data import Experiment, Split, Task
from examples.runner.plan import Method, Phase
from examples.runner.run import Runner
from tests.helpers import Network

SEEDS = range(2)


def experiment():
    def split(n, seed):
        rng = np.random.default_rng(seed)
        inputs = rng.normal(size=(n, 6)).astype(np.float32)
        return Split(inputs, rng.integers(0, 3, n).astype(np.int32))

    tasks = {"a": Task(split(40, 0), split(20, 1)), "b": Task(split(40, 2))}
    return Experiment("small", Network, lambda x: x, tasks, 8, ("train", 40))


class Recording(Runner):
    """Keeps the weights and sums behind every phase, the last one's too."""

    def __init__(self, folder, **arguments):
        super().__init__(experiment(), folder, **arguments)

    def write_to(self, folder, saving=None, *, every=5):
        self._folder = folder
        saving = saving or Saving(folder / "checkpoints", every, keep=2)
        super().write_to(folder, saving)

    def train(self, phases, seeds, title, splits, keep):
        def record(outcomes):
            for seed, outcome in outcomes.items():
                state = outcome.state._replace(dropout_key=None)
                checkpoints.save(self._folder / f"{len(phases)}-{seed}.npz", state, [])
            keep(outcomes)

        return super().train(phases, seeds, title, splits, record)


def method(epochs):
    # Of one optimizer, so that one program trains both.
    phases = (Phase({task: epochs}, "classp", dict(learning_rate=0.1)) for task in "ab")
    return Method("CLASSP", tuple(phases), ("train",))


def main(folder, epochs):
    train_steps = side_by_side.train_steps

    def announced(*arguments):
        result = train_steps(*arguments)
        print("a step", flush=True)
        return result

    side_by_side.train_steps = announced
    Recording(pathlib.Path(folder)).run("classp", method(int(epochs)), SEEDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
