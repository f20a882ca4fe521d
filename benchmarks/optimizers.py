"""The experiments' whole train steps, by each optimizer against SGD.

``python -m benchmarks.optimizers`` makes the same steps on the same batches by each in
turns, in one process, and prints the ratio to SGD of each turn: its median, and its
smallest and largest.
"""

from collections.abc import Callable

import jax
import numpy as np
import optax

import classp_jax
from benchmarks import train_step
from benchmarks.timing import (
    add_names,
    in_turns,
    machine,
    make_parser,
    spread,
)
from examples.datasets.mnist import normalise
from examples.models.mlp import MLP
from examples.runner.trainer import Trainer
from examples.runner.words import count

OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgd": lambda: optax.sgd(0.01),
    "adam": lambda: optax.adam(1e-4),
    "classp": lambda: classp_jax.classp(0.01),
    "classp_gram, rank 16": lambda: classp_jax.classp_gram(0.01, rank=16),
    "classp_gram, rank 32": lambda: classp_jax.classp_gram(0.01, rank=32),
    "classp_gram, rank 64": lambda: classp_jax.classp_gram(0.01, rank=64),
    "classp_gram, in full": lambda: classp_jax.classp_gram(0.01, rank=None),
}


def mlp(batch_size: int) -> train_step.Workload:
    """The streams' network, with 50 steps a turn."""
    return train_step.vision()._replace(
        title="MLP",
        trainer=lambda optimizer: Trainer(MLP, optimizer, normalise),
        batch_size=batch_size,
        steps=50,
    )


WORKLOADS: dict[str, Callable[[], train_step.Workload]] = {
    "mlp": lambda: mlp(32),
    "mlp_256": lambda: mlp(256),
    "cnn": train_step.vision,
    "transformer": train_step.sentiment,
}


def measure(work: train_step.Workload, names: list[str], turns: int) -> list[str]:
    """Times a workload by each optimizer and gives its table."""
    batches = work.batches()
    runs = {
        name: train_step.jax_loop(work, OPTIMIZERS[name](), batches) for name in names
    }
    times = in_turns(runs, turns, work.title)
    head = f"{work.title}, batch {work.batch_size}"
    milliseconds = np.divide(times["sgd"], len(batches))
    lines = [f"| {head}: sgd, ms a step | {spread(milliseconds, 1)} |"]
    return lines + [
        f"| {head}: {name} ÷ sgd | {spread(np.divide(times[name], times['sgd']), 2)} |"
        for name in names[1:]
    ]


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(
        "optimizers", "Times the experiments' train steps by each optimizer."
    )
    add_names(parser, "--models", WORKLOADS, "whose train steps")
    add_names(parser, "--optimizers", OPTIMIZERS, "which, beside SGD")
    args = parser.parse_args(argv)

    names = list(dict.fromkeys(["sgd", *args.optimizers]))
    works = [WORKLOADS[model]() for model in args.models]
    lines = [line for work in works for line in measure(work, names, args.turns)]
    print(f"\nTrain step by optimizer, {machine()}, {count(args.turns, 'turn')}\n")
    print("| | median | smallest | largest |\n|---|---:|---:|---:|")
    print("\n".join(lines))
    print(f"\nJAX {jax.__version__}")


if __name__ == "__main__":
    main()
