"""The experiments' whole train steps in JAX against the same loops in PyTorch.

``python -m benchmarks.train_step`` times both in turns, in one process, and prints the
ratio of each turn: its median, and its smallest and largest. PyTorch runs the same
network, batch, preprocessing and optimizer, with as many threads as there are cores, or
on the same GPU, and neither rounds what it multiplies there to fewer bits.
Of the Transformer PyTorch encodes every position, as its layer does, and JAX the one
that is read. Of the CNN it also times alone the products of matrices that its second
convolution and its first dense layer become, forwards and backwards: nearly all of its
arithmetic, and so what no loop around XLA's products can undercut.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import torch

import classp_jax
from benchmarks.pytorch import torch_device, wait_for_torch
from benchmarks.timing import (
    VOCABULARY,
    add_names,
    in_turns,
    machine,
    make_parser,
    spread,
)
from examples.datasets.mnist import normalise
from examples.models.cnn import CNN
from examples.models.transformer import Transformer
from examples.runner.trainer import Trainer
from examples.runner.words import count
from tests.reference import cnn, transformer
from tests.reference.optimizer import Classp

HYPERPARAMETERS: dict[str, Any] = {"threshold": 0.0, "power": 1.0, "apply_decay": True}
Three = tuple[jax.Array, ...]


class Workload(NamedTuple):
    """What to train on what.

    Attributes:
      title: what to call it.
      trainer: of the network in Flax, by its optimizer.
      torch_model: its twin.
      torch_inputs: from a batch of inputs to what the twin takes.
      inputs: (n, ...).
      labels: (n,).
      batch_size: examples a step.
      hyperparameters: of the optimizer.
      steps: in a turn; on anything faster than a CPU ten times as many.
      products: shapes (m, k, n) of those products (m, k) x (k, n) that are most of a
        step, each with its two gradients.
    """

    title: str
    trainer: Callable[[optax.GradientTransformation], Trainer]
    torch_model: torch.nn.Module
    torch_inputs: Callable[[torch.Tensor], torch.Tensor]
    inputs: np.ndarray
    labels: np.ndarray
    batch_size: int
    hyperparameters: dict[str, Any]
    steps: int
    products: tuple[tuple[int, int, int], ...] = ()

    def batches(self) -> np.ndarray:
        """The examples of each step of a turn, the same at each call."""
        steps = self.steps * (1 if jax.default_backend() == "cpu" else 10)
        rng = np.random.default_rng(0)
        return rng.integers(0, len(self.labels), (steps, self.batch_size))


def vision() -> Workload:
    rng = np.random.default_rng(0)
    hyperparameters = HYPERPARAMETERS | {"eps": 1e-5}
    return Workload(
        "CNN",
        lambda optimizer: Trainer(CNN, optimizer, normalise),
        cnn.CNN(),
        lambda x: (x.permute(0, 3, 1, 2).float() / 255 - 0.1307) / 0.3081,
        rng.integers(0, 256, (1000, 28, 28, 1)).astype(np.uint8),
        rng.integers(0, 10, 1000).astype(np.int32),
        32,
        hyperparameters,
        20,
        # Of the second convolution, as one over patches, and of the first dense layer.
        ((32 * 24 * 24, 9 * 32, 64), (32, 9216, 128)),
    )


def sentiment() -> Workload:
    rng = np.random.default_rng(0)
    hyperparameters = HYPERPARAMETERS | {"eps": 1e-4}
    make_model = functools.partial(Transformer, vocabulary=VOCABULARY)
    tokens = np.minimum(rng.zipf(1.3, (3000, 30)), VOCABULARY - 1)
    return Workload(
        "Transformer",
        functools.partial(Trainer, make_model),
        transformer.Transformer(VOCABULARY),
        lambda x: x,
        tokens.astype(np.int32),
        rng.integers(0, 3, 3000).astype(np.int32),
        750,
        hyperparameters,
        2,
    )


def jax_loop(
    work: Workload, optimizer: optax.GradientTransformation, batches: np.ndarray
) -> Callable[[], None]:
    """A function that makes a step on each of the batches."""
    trainer = work.trainer(optimizer)
    state = trainer.init(0)
    inputs, labels = jax.device_put((work.inputs, work.labels))

    def run() -> None:
        nonlocal state
        state, _ = trainer.train_steps(state, inputs, labels, batches, len(batches))
        jax.block_until_ready(state)

    return run


def torch_loop(work: Workload, batches: np.ndarray) -> Callable[[], None]:
    """The same in PyTorch."""
    device = torch_device()
    model = work.torch_model.to(device).train()
    optimizer = Classp(model.parameters(), lr=0.01, **work.hyperparameters)
    inputs = torch.tensor(work.inputs, device=device)
    labels = torch.tensor(work.labels, dtype=torch.long, device=device)

    def run() -> None:
        for batch in batches:
            optimizer.zero_grad()
            logits = model(work.torch_inputs(inputs[batch]))
            torch.nn.functional.cross_entropy(logits, labels[batch]).backward()
            optimizer.step()
        wait_for_torch()

    return run


def products_loop(
    shapes: tuple[tuple[int, int, int], ...], steps: int
) -> Callable[[], None]:
    """A function that makes products of these shapes and their gradients, each step."""

    # Into the buffers of those before: fresh memory would take time of its own.
    @functools.partial(jax.jit, donate_argnums=2, keep_unused=True)
    def three(a: jax.Array, b: jax.Array, before: Three) -> Three:
        del before
        y = a @ b
        return y, y @ b.T, a.T @ y

    operands = [
        (jax.numpy.ones((m, k)), jax.numpy.ones((k, n)) / k) for m, k, n in shapes
    ]
    results = [
        tuple(map(jax.numpy.zeros, ((m, n), (m, k), (k, n)))) for m, k, n in shapes
    ]

    def run() -> None:
        for _ in range(steps):
            for i, (a, b) in enumerate(operands):
                results[i] = three(a, b, results[i])
        jax.block_until_ready(results)

    return run


def measure(work: Workload, turns: int) -> list[str]:
    """Times a workload and gives its table."""
    batches = work.batches()
    steps = len(batches)
    optimizer = classp_jax.classp(0.01, **work.hyperparameters)
    runs = {"JAX": jax_loop(work, optimizer, batches)}
    if torch_device():
        runs["PyTorch"] = torch_loop(work, batches)
    if work.products:
        runs["JAX, products alone"] = products_loop(work.products, steps)
    times_of = in_turns(runs, turns, work.title)
    milliseconds = {name: np.divide(t, steps) for name, t in times_of.items()}
    head = f"{work.title}, batch {work.batch_size}"
    lines = [
        f"| {head}: {name}, ms a step | {spread(times, 1)} |"
        for name, times in milliseconds.items()
    ]
    if "PyTorch" in runs:
        ratio = np.divide(milliseconds["PyTorch"], milliseconds["JAX"])
        lines.append(f"| {head}: PyTorch ÷ JAX | {spread(ratio, 2)} |")
    return lines


WORKLOADS = {"cnn": vision, "transformer": sentiment}


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(
        "train_step", "Times the experiments' train steps in JAX and PyTorch."
    )
    add_names(parser, "--models", WORKLOADS, "whose train steps")
    args = parser.parse_args(argv)

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False
    with jax.default_matmul_precision("float32"):
        lines = [x for m in args.models for x in measure(WORKLOADS[m](), args.turns)]
    print(f"\nTrain step, CLASSP, {machine()}, {count(args.turns, 'turn')}\n")
    print("| | median | smallest | largest |\n|---|---:|---:|---:|")
    print("\n".join(lines))
    print(f"\nJAX {jax.__version__}, PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
