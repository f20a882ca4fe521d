"""A small experiment on eight devices, of several processes.

``python -m tests.examples.runner.several_devices FOLDER MESH HOST:PORT COUNT ID``
writes rows, checkpoints and the final weights into a folder. With a second mesh behind
it, it does the same below ``disk``, of examples that it reads in training, and prints
how many at once.
"""

import argparse
import contextlib
import json
import pathlib
import sys
from unittest import mock

import jax
import numpy as np

import examples.methods.gram  # noqa: F401  Which registers it.
from examples.methods.ewc import EWC
from examples.runner import cli, sharding
from examples.runner.data import Experiment, Split, Task
from examples.runner.plan import Method, Phase
from examples.runner.run import Runner
from examples.runner.stored import Stored
from examples.runner.trainer import Trainer
from tests.examples.helpers import random_split
from tests.helpers import Network

DEVICES = 8
COLLECT = Phase({"a": 2}, "classp", dict(learning_rate=0.1, apply_decay=False))
CLASSP = (COLLECT, Phase({"b": 2}, "classp", dict(learning_rate=0.1)))
PENALTY = EWC(10.0, examples=20)
# Four directions of the output layer's eight.
GRAM = dict(learning_rate=0.1, damping=0.1, rank=4)
METHODS = {
    "classp": CLASSP,
    "gram": tuple(Phase({name: 2}, "classp_gram", GRAM) for name in "ab"),
    "ewc": (COLLECT, Phase({"b": 2}, "sgd", dict(learning_rate=0.1), (PENALTY,))),
}


def experiment():
    # 44 examples in batches of 20: of the last one 4 are left, fewer than devices.
    tasks = {
        name: Task(random_split(44, i), random_split(30, 5))
        for i, name in enumerate("ab")
    }
    return Experiment("tiny", Network, lambda x: x / 255 - 0.5, tasks, 20)


def from_disk():
    """The same experiment; a list of how many examples were read at once."""
    counts = []

    def stored(split):
        def read(which):
            counts.append(len(which))
            return split.inputs[which]

        return Split(Stored(read, 44, (6,)), split.labels)

    of = experiment()
    tasks = {name: Task(stored(x.train), x.test) for name, x in of.tasks.items()}
    return of._replace(tasks=tasks), counts


def train(folder, mesh, seeds=(0, 1), vmap_seeds=1, of=None, methods=METHODS):
    """Rows of methods, in the folder; the state that the first seed ends with."""
    runner = Runner(of or experiment(), folder, vmap_seeds, mesh=mesh)
    # It takes a second program of each trainer's step; one method's are enough.
    stub = mock.patch.object(Trainer, "update_density", lambda *_: np.float32(0.5))
    states = {}
    for name in methods:
        phases = METHODS[name]
        method = Method(name, phases, ("train", "test"))
        with contextlib.nullcontext() if name == "classp" and not of else stub:
            runner.run(name, method, seeds)
        outcome, *_ = runner.train(phases, seeds[:vmap_seeds])  # As compiled.
        states[name] = outcome.state
    return states


def main():
    folder, mesh, *processes = sys.argv[1:6]
    jax.config.update("jax_num_cpu_devices", DEVICES // int(processes[1]))
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    sharding.LARGE = 1  # So that the small network's weights are cut too.
    folder = pathlib.Path(folder)
    first = cli.devices(argparse.Namespace(mesh=axes(mesh), distributed=processes))
    save_weights(folder, train(folder, first))
    counts = []
    for mesh in sys.argv[6:]:
        of, counts = from_disk()
        disk, methods = folder / "disk", ["classp", "ewc"]
        mesh = sharding.make_mesh(axes(mesh))
        save_weights(disk, train(disk, mesh, of=of, methods=methods))
    print(json.dumps([jax.process_count(), jax.device_count(), sorted({*counts})]))


def axes(mesh):
    return [sharding.axis(text) for text in mesh.split(",")]


def save_weights(folder, states):
    weights = sharding.to_host({name: state.params for name, state in states.items()})
    if sharding.is_first_process():
        leaves = jax.tree.leaves(weights)
        np.savez(f"{folder}/weights.npz", **{str(i): x for i, x in enumerate(leaves)})


if __name__ == "__main__":
    main()
