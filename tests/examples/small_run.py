"""A run to interrupt: python -m tests.examples.small_run FOLDER EPOCHS."""

import pathlib
import sys

import numpy as np

from examples import checkpoints, continual
from examples.checkpoints import Saving
from examples.continual import Runner
from examples.methods import Method, Phase
from examples.runner.data import Experiment, Split, Task
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
        self.write_to(folder)

    def write_to(self, folder, every=5):
        """As one of another folder, but that nothing is compiled again."""
        self._folder, self._rows = folder, folder / "rows.jsonl"
        self._checkpoints = folder / "checkpoints"
        self._saving = Saving(self._checkpoints, every, keep=2)

    def _train(self, title, phases, seeds, splits, keep):
        def record(outcomes):
            for seed, outcome in outcomes.items():
                state = outcome.state._replace(dropout_key=None)
                checkpoints.save(self._folder / f"{len(phases)}-{seed}.npz", state, [])
            keep(outcomes)

        return super()._train(title, phases, seeds, splits, record)


def method(epochs):
    # Of one optimizer, so that one program trains both.
    phases = (Phase({task: epochs}, "classp", dict(learning_rate=0.1)) for task in "ab")
    return Method("CLASSP", tuple(phases), ("train",))


def main(folder, epochs):
    train_steps = continual._train_steps

    def announced(*arguments):
        result = train_steps(*arguments)
        print("a step", flush=True)
        return result

    continual._train_steps = announced
    Recording(pathlib.Path(folder)).run("classp", method(int(epochs)), SEEDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
