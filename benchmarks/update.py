"""One optimizer step against the memory bandwidth that the machine has.

``python -m benchmarks.update`` times jitted, donated steps of CLASSP, Optax and PyTorch
in one process, each in turns with the floor. The floor is what a step with one
accumulator must move, 20 bytes a float32 weight (gradient, accumulator and weight read,
accumulator and weight written), at the bandwidth that an in-place sum of two large
arrays reaches in the same turn; on a GPU, where that takes fractions of a millisecond,
its start counts, too, and steps can be under the "floor".
"""

import functools
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx

import classp_jax
from benchmarks.pytorch import torch_device, wait_for_torch
from benchmarks.timing import (
    LEAST,
    VOCABULARY,
    add_names,
    in_turns,
    machine,
    make_parser,
    spread,
)
from classp_jax import baselines
from examples.models.cnn import CNN
from examples.models.transformer import Transformer
from examples.runner.words import count
from tests.reference.optimizer import Classp

FLOOR = "floor"
SUMMED = 2**26  # Elements of the arrays whose sum measures the bandwidth.
WEIGHTS_A_TURN = {"cpu": 10**7, "gpu": 10**9, "tpu": 10**9}  # Updated in all.
RATE = 1e-3
Shapes = list[tuple[int, ...]]


def shapes_of(make_model: Callable[[nnx.Rngs], nnx.Module]) -> Shapes:
    model = nnx.eval_shape(lambda: make_model(nnx.Rngs(0)))
    return [p.shape for p in jax.tree.leaves(nnx.state(model, nnx.Param))]


WEIGHTS: dict[str, Callable[[], Shapes]] = {
    "cnn": lambda: shapes_of(CNN),
    "transformer": lambda: shapes_of(lambda rngs: Transformer(rngs, VOCABULARY)),
    "array": lambda: [(78_125, 1280)],
    "tensors": lambda: [(32, 32)] * 1000,
}
_READINGS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "classp": classp_jax.classp,
    "classp_equation1": classp_jax.classp_equation1,
    "classp_released": classp_jax.classp_released,
    "classp, factored": functools.partial(classp_jax.classp, factored=True),
}
JAX = {
    f"{name}, p {power:g}": (reading, power)
    for name, reading in _READINGS.items()
    for power in (1, 2, 1.5)
}
OPTAX = {
    "optax.adagrad": optax.adagrad,
    "optax.adam": optax.adam,
    "optax.sgd": optax.sgd,
}
TORCH: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, bool]]] = {
    f"torch {optimizer.__name__}, {form}": (optimizer, {form: True})
    for optimizer in (torch.optim.Adagrad, torch.optim.Adam)
    for form in ("fused", "foreach")
}
PENALTY = "ewc_penalty, optax.sgd"
EAGER = "torch, CLASSP a tensor at a time"


class Contender(NamedTuple):
    """An optimizer, ready to step.

    Attributes:
      run: makes a step, or has it made.
      wait: returns when all steps are made.
      bytes_per_weight: of its state.
      compile_seconds: NaN where nothing is compiled.
    """

    run: Callable[[], object]
    wait: Callable[[], object]
    bytes_per_weight: float
    compile_seconds: float = float("nan")


def of_jax(optimizer: optax.GradientTransformation, shapes: Shapes) -> Contender:
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.standard_normal(s, np.float32)) for s in shapes]
    grads = [jnp.asarray(rng.standard_normal(s, np.float32)) for s in shapes]
    state = optimizer.init(params)

    def step(
        params: list[jax.Array], state: optax.OptState, grads: list[jax.Array]
    ) -> tuple[list[jax.Array], optax.OptState]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    start = time.perf_counter()
    compiled = (
        jax.jit(step, donate_argnums=(0, 1)).lower(params, state, grads).compile()
    )
    seconds = time.perf_counter() - start
    size = sum(x.nbytes for x in jax.tree.leaves(state))

    def run() -> None:
        nonlocal params, state
        params, state = compiled(params, state, grads)

    def wait() -> None:
        jax.block_until_ready(params)

    return Contender(run, wait, size / sum(p.size for p in params), seconds)


def of_torch(
    make_optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer],
    shapes: Shapes,
) -> Contender:
    generator = torch.Generator().manual_seed(0)

    def random(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(torch_device())

    params = [torch.nn.Parameter(random(shape)) for shape in shapes]
    for p in params:
        p.grad = random(p.shape)
    optimizer = make_optimizer(params)
    optimizer.step()
    state = [x for of in optimizer.state.values() for x in of.values()]
    size = sum(x.nbytes for x in state if torch.is_tensor(x))
    return Contender(
        optimizer.step, wait_for_torch, size / sum(p.numel() for p in params)
    )


def floor() -> Callable[[], None]:
    """The in-place sum of two large arrays."""
    add = jax.jit(lambda a, b: a + b, donate_argnums=0)
    a, b = jnp.ones(SUMMED), jnp.ones(SUMMED)

    def run() -> None:
        nonlocal a
        a = add(a, b)
        a.block_until_ready()

    return run


def contender(name: str, shapes: Shapes) -> Contender:
    """The optimizer of a name."""
    if name in JAX:
        reading, power = JAX[name]
        return of_jax(reading(RATE, power=power), shapes)
    if name in OPTAX:
        return of_jax(OPTAX[name](RATE), shapes)
    if name == PENALTY:
        zeros = [np.zeros(shape, np.float32) for shape in shapes]
        penalty = baselines.ewc_penalty(zeros, zeros, 1000, RATE)
        return of_jax(optax.chain(penalty, optax.sgd(RATE)), shapes)
    if name in TORCH:
        optimizer, form = TORCH[name]
        return of_torch(lambda p: optimizer(p, lr=RATE, **form), shapes)
    return of_torch(lambda p: Classp(p, lr=RATE, threshold=0.0), shapes)


def measure(what: str, name: str, turns: int) -> dict[str, Any]:
    """A row: an optimizer's ratios to the floor, and what it costs besides."""
    shapes = WEIGHTS[what]()
    number = sum(int(np.prod(shape)) for shape in shapes)
    made = contender(name, shapes)
    # So many steps that neither the clock nor the wait for the last one matters.
    steps = max(1, WEIGHTS_A_TURN[jax.default_backend()] // number)

    def run() -> None:
        for _ in range(steps):
            made.run()
        made.wait()

    sums = in_turns({FLOOR: floor(), name: run}, turns, f"{what}, {name}")
    milliseconds = np.divide(sums[name], steps)
    bandwidth = 3 * 4 * SUMMED / np.divide(sums[FLOOR], 1000)
    least = 1000 * LEAST * number / bandwidth
    return {
        "weights": what,
        "number": number,
        "optimizer": name,
        "milliseconds": milliseconds.tolist(),
        "ratio": (milliseconds / least).tolist(),
        "bytes_per_weight": made.bytes_per_weight,
        "compile_seconds": made.compile_seconds,
        "bandwidth": bandwidth.tolist(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of one set of weights as a table."""
    bandwidth = np.median([row["bandwidth"] for row in rows]) / 1e9
    lines = [
        f"{rows[0]['weights']}: {rows[0]['number']:,} weights; the floor at"
        f" {bandwidth:.1f} GB/s",
        "",
        "| | ÷ floor: median | smallest | largest | ms | state, bytes a weight |"
        " compile, s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        seconds = row["compile_seconds"]
        compiled = "\N{EN DASH}" if np.isnan(seconds) else f"{seconds:.2f}"
        cells = [
            row["optimizer"],
            spread(row["ratio"], 2),
            f"{np.median(row['milliseconds']):.2f}",
            f"{row['bytes_per_weight']:.2g}",
            compiled,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    everything = [*JAX, *OPTAX, PENALTY, *TORCH, EAGER]
    parser = make_parser(
        "update", "Times an optimizer's step against the memory's bandwidth."
    )
    add_names(parser, "--weights", WEIGHTS, "shapes to update")
    parser.add_argument(
        "--optimizers",
        nargs="+",
        choices=everything,
        metavar="NAME",
        help=f"default: all of {'; '.join(everything)}",
    )
    parser.add_argument(
        "--json", type=pathlib.Path, metavar="FILE", help="write every turn there"
    )
    args = parser.parse_args(argv)
    args.optimizers = args.optimizers or everything
    if torch_device() == "cuda":
        # PyTorch's fused Adagrad is for CPUs alone.
        args.optimizers = [n for n in args.optimizers if n != "torch Adagrad, fused"]
    elif torch_device() is None:
        args.optimizers = [n for n in args.optimizers if not n.startswith("torch")]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows = []
    for what in args.weights:
        of_weights = [measure(what, name, args.turns) for name in args.optimizers]
        print(f"\n{table(of_weights)}", flush=True)
        rows += of_weights
        if args.json:
            args.json.write_text(json.dumps(rows))
    print(
        f"\n{machine()}, {count(args.turns, 'turn')}; JAX {jax.__version__},"
        f" Optax {optax.__version__}, PyTorch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
