"""The CNN's whole train step in JAX against the same loop in PyTorch.

``python -m benchmarks.train_step`` times both in turns, in one process, and prints the
ratio of each turn: its median, and its smallest and largest. PyTorch runs the same
network, batch, normalisation and optimizer, with as many threads as there are cores.
"""

import argparse
import os
import time

import jax
import numpy as np
import torch
from tqdm import trange

import classp_jax
from examples.cnn import CNN
from examples.training import Trainer
from examples.vision.data import normalise
from tests.reference import cnn
from tests.reference.optimizer import Classp

HYPERPARAMETERS = {"threshold": 0.0, "power": 1.0, "eps": 1e-5, "apply_decay": True}


def jax_loop(images, labels, batches):
    """A function that makes a step on each of the batches."""
    trainer = Trainer(CNN, classp_jax.classp(0.01, **HYPERPARAMETERS), normalise)
    state = trainer.init(0)
    images, labels = jax.device_put((images, labels))

    def run():
        nonlocal state
        state, _ = trainer.train_steps(state, images, labels, batches)
        jax.block_until_ready(state)

    return run


def torch_loop(images, labels, batches):
    """The same in PyTorch."""
    torch.manual_seed(0)
    model = cnn.CNN().train()
    optimizer = Classp(model.parameters(), lr=0.01, **HYPERPARAMETERS)
    images = torch.tensor(images).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(labels, dtype=torch.long)

    def run():
        for batch in batches:
            optimizer.zero_grad()
            logits = model((images[batch].float() / 255 - 0.1307) / 0.3081)
            torch.nn.functional.cross_entropy(logits, labels[batch]).backward()
            optimizer.step()

    return run


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_step",
        description="Times the CNN's train step in JAX and PyTorch, side by side.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--turns", type=int, default=15, help="turns of each")
    parser.add_argument("--steps", type=int, default=20, help="steps in a turn")
    parser.add_argument("--batch-size", type=int, default=32, help="images a step")
    args = parser.parse_args(argv)

    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1000, 28, 28, 1)).astype(np.uint8)
    labels = rng.integers(0, 10, 1000).astype(np.int32)
    batches = rng.integers(0, 1000, (args.steps, args.batch_size))

    loops = {"JAX": jax_loop, "PyTorch": torch_loop}
    runs = {name: loop(images, labels, batches) for name, loop in loops.items()}
    for run in runs.values():  # Compile, allocate, warm up.
        run()
    milliseconds = {name: [] for name in runs}
    for _ in trange(args.turns, desc="turns"):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            elapsed = time.perf_counter() - start
            milliseconds[name].append(1000 * elapsed / args.steps)

    ratio = np.divide(milliseconds["PyTorch"], milliseconds["JAX"])
    print(f"\nCNN, CLASSP, batch {args.batch_size}, {cores} cores, {args.turns} turns")
    print("| | ms a step: median | smallest | largest |\n|---|---:|---:|---:|")
    for name, times in milliseconds.items():
        print(f"| {name} | {_spread(times, 1)} |")
    print(f"| PyTorch ÷ JAX | {_spread(ratio, 2)} |")
    print(f"\nJAX {jax.__version__}, PyTorch {torch.__version__}")


def _spread(values, digits):
    return " | ".join(f"{f(values):.{digits}f}" for f in (np.median, np.min, np.max))


if __name__ == "__main__":
    main()
