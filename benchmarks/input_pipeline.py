"""Training on images that are read in training against images in memory.

``python -m benchmarks.input_pipeline`` trains a network on MNIST both ways in turns, in
one process, with the experiments' own blocks of steps, and prints the ratio of each
turn: its median, and its smallest and largest. It downloads MNIST where it is missing.
"""

import argparse
import functools
import pathlib
from collections.abc import Callable

import jax
import numpy as np

import classp_jax
from benchmarks.timing import add_names, in_turns, machine, make_parser, spread
from examples.datasets import mnist
from examples.datasets.tfds import DatasetError
from examples.models.registry import models
from examples.runner import batches, side_by_side, sources
from examples.runner.data import Task
from examples.runner.trainer import Trainer
from examples.runner.words import count

_BATCH_SIZE = 64
_NAMES = ("mlp", "cnn")


def loop(trainer: Trainer, source: sources.Source) -> Callable[[], None]:
    """A function that makes a block of steps, the same images at each call."""
    states = side_by_side.stacked([trainer.init(0)])
    order = np.random.default_rng(0).permutation(len(source.data.labels))
    block = batches.in_blocks(order, _BATCH_SIZE)[0][None]

    def run() -> None:
        nonlocal states
        with source.training([block]) as train:
            states, _ = train(trainer, states, block)
        jax.block_until_ready(states)

    return run


def measure(name: str, tasks: dict[str, Task], turns: int) -> list[str]:
    """Times a model and gives its lines of the table."""
    make_model = functools.partial(
        models()[name].make, classes=mnist.CLASSES, shape=(mnist.SIDE, mnist.SIDE, 1)
    )
    trainer = Trainer(make_model, classp_jax.classp(0.1), mnist.normalise)
    runs = {
        where: loop(trainer, sources.make([task.train], None))
        for where, task in tasks.items()
    }
    times_of = in_turns(runs, turns, name)
    milliseconds = {of: np.divide(t, batches.BLOCK) for of, t in times_of.items()}
    ratio = np.divide(milliseconds["disk"], milliseconds["memory"])
    head = f"{name}, batch {_BATCH_SIZE}"
    return [
        *(
            f"| {head}: {of}, ms per step | {spread(times, 2)} |"
            for of, times in milliseconds.items()
        ),
        f"| {head}: disk ÷ memory | {spread(ratio, 2)} |",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "input_pipeline", "Times training on images from a disk and from memory."
    )
    add_names(parser, "--models", _NAMES, "which to train")
    parser.add_argument(
        "--data-dir",
        type=pathlib.Path,
        metavar="FOLDER",
        help="of TFDS; what is missing is downloaded",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        tasks = {
            where: load(args.data_dir, ["mnist"])["mnist"]
            for where, load in (("memory", mnist.load), ("disk", mnist.load_stored))
        }
    except DatasetError as error:
        parser.error(str(error))
    with jax.default_matmul_precision("float32"):
        lines = [line for m in args.models for line in measure(m, tasks, args.turns)]
    print(f"\nInput pipeline, CLASSP, {machine()}, {count(args.turns, 'turn')}\n")
    print("| | median | smallest | largest |\n|---|---:|---:|---:|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
