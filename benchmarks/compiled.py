"""What the compiled programs move, read from the programs themselves.

``python -m benchmarks.compiled`` compiles the update of every reading, and the train
step of both experiments, for this machine and, with ``libtpu``, for slices of four TPUs
that needn't be there. It prints the bytes a weight that the update reads and writes
(20 is the least: gradient, sum and weight read, sum and weight written), what it keeps
in between, and what the devices send each other.
"""

import argparse
import functools
import importlib.util
import math
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import classp_jax
from benchmarks.timing import LEAST, VOCABULARY
from examples.models.cnn import CNN
from examples.models.transformer import Transformer
from examples.runner import sharding
from examples.runner.trainer import Trainer

HELD = 12  # Bytes a float32 weight: itself, its gradient and its sum.
# A chip's memory in bytes and its bandwidth in bytes a second, by Google's documents.
MEMORY = {"v4": (32e9, 1200e9), "v5e": (16e9, 819e9), "v6e": (32e9, 1638e9)}
SIZES = {"1 B": 10**9, "70 B": 70 * 10**9, "1 T": 10**12}
TPUS = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v6e": "v6e:2x2"}
WEIGHTS = 100_000_000  # A device.
COLUMNS = 1280  # Of the matrix that they make; a multiple of a TPU's 128 lanes.
_COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)"
    r"(?:-start)?\("
)
_ARRAY = re.compile(r"\b(pred|[suf](\d+)|bf16)\[([\d,]*)\]")
_READINGS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "classp": functools.partial(classp_jax.classp, threshold=1e-6),
    "classp_equation1": functools.partial(classp_jax.classp_equation1, threshold=1e-6),
    "classp_released": classp_jax.classp_released,
    "classp, relative": functools.partial(
        classp_jax.classp, threshold=1.0, relative=True
    ),
    "classp, factored": functools.partial(
        classp_jax.classp, threshold=1e-6, factored=True
    ),
}
UPDATES: dict[str, Callable[[float], optax.GradientTransformation]] = {
    f"{name}, p {power:g}": functools.partial(reading, power=power)
    for name, reading in _READINGS.items()
    for power in (1, 2, 1.5)
} | {
    "classp_gram, rank 64": functools.partial(classp_jax.classp_gram, rank=64),
    "optax.adagrad": optax.adagrad,
    "optax.adam": optax.adam,
}
# Of batches that four devices can share evenly.
TRAIN_STEPS: dict[
    str, tuple[Callable[[nnx.Rngs], nnx.Module], jax.ShapeDtypeStruct, int]
] = {
    "CNN": (CNN, jax.ShapeDtypeStruct((60_000, 28, 28, 1), jnp.float32), 32),
    "Transformer": (
        functools.partial(Transformer, vocabulary=VOCABULARY),
        jax.ShapeDtypeStruct((25_000, 30), jnp.int32),
        748,
    ),
}


class Program(NamedTuple):
    """What a compiled program does, on each device.

    Attributes:
      moved: bytes read and written.
      kept: bytes of arrays between its loops.
      sent: operations between devices, each with the number of its elements.
    """

    moved: float
    kept: int
    sent: list[tuple[str, int]]


def tpus(chip: str) -> Mesh:
    """Four TPUs that needn't be there; needs ``libtpu``."""
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    }
    topology = topologies.get_topology_desc(platform="tpu", topology_name=TPUS[chip])
    return Mesh(np.reshape(topology.devices[:4], (4, 1)), ("data", "model"))


def update(
    name: str,
    mesh: Mesh | None,
    weights: int = WEIGHTS,
    cut: tuple[str | None, ...] = ("data",),
) -> Program:
    """An optimizer's step on so many weights a device, cut along a mesh's axes."""
    optimizer = UPDATES[name](0.1)
    rows = weights // COLUMNS * (mesh.size if mesh else 1)
    params = jax.ShapeDtypeStruct((rows, COLUMNS), jnp.float32)

    def step(
        params: jax.Array, opt_state: optax.OptState, grads: jax.Array
    ) -> tuple[jax.Array, optax.OptState]:
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def place(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        # All but scalars and the sums of columns begins with the matrix's rows.
        axes = cut[:1] if x.shape not in ((), (COLUMNS,)) else ()
        spec = PartitionSpec(*(cut if x.shape == params.shape else axes))
        return _on(NamedSharding(mesh, spec) if mesh else None, x)

    arguments = params, jax.eval_shape(optimizer.init, params), params
    return _compile(step, (0, 1), *jax.tree.map(place, arguments))


def train_step(
    name: str,
    mesh: Mesh | None,
    make_optimizer: Callable[[float], optax.GradientTransformation] = classp_jax.classp,
) -> Program:
    """A train step of an experiment, the batch cut among all devices."""
    make_model, inputs, batch = TRAIN_STEPS[name]
    optimizer = make_optimizer(0.1)
    state = jax.eval_shape(lambda: Trainer(make_model, optimizer).init(0))
    data = (
        inputs,
        jax.ShapeDtypeStruct(inputs.shape[:1], jnp.int32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )

    def place(x: jax.ShapeDtypeStruct, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        return _on(sharding.sharding_of(mesh, shape) if mesh else None, x)

    state = jax.tree.map(lambda x: place(x, x.shape), state)
    data = jax.tree.map(lambda x: place(x, ()), data)
    platform = "tpu" if mesh else jax.default_backend()
    # The models ask for the backend where its best program differs.
    with mock.patch.object(jax, "default_backend", lambda: platform):
        trainer = Trainer(make_model, optimizer, mesh=mesh)
        return _compile(trainer.train_step, (0,), state, *data)


def weights(name: str) -> int:
    """The number of an experiment's weights."""
    make_model = TRAIN_STEPS[name][0]
    trainer = Trainer(make_model, optax.identity())
    params = jax.eval_shape(lambda: trainer.init(0)).params
    return sum(p.size for p in jax.tree.leaves(params))


def _on(where: NamedSharding | None, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)


def _compile(
    f: Callable[..., Any], donated: tuple[int, ...], *arguments: Any
) -> Program:
    compiled = jax.jit(f, donate_argnums=donated).lower(*arguments).compile()
    text, cost = compiled.as_text(), compiled.cost_analysis()
    memory = compiled.memory_analysis()
    assert text is not None and cost is not None and memory is not None
    sent = []
    for result, operation in _COLLECTIVE.findall(text):
        shapes = [shape for _, _, shape in _ARRAY.findall(result)]
        elements = sum(
            int(np.prod([int(n or 1) for n in s.split(",")])) for s in shapes
        )
        sent.append((operation, elements))
    return Program(
        cost["bytes accessed"],
        memory.temp_size_in_bytes,
        sent,
    )


def _in_words(sent: list[tuple[str, int]]) -> str:
    return ", ".join(f"{what} of {count:,}" for what, count in sent) or "nothing"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compiled",
        description="What the compiled programs read, write, keep and send.",
    )
    parser.parse_args(argv)
    devices: dict[str, Mesh | None] = {jax.default_backend().upper(): None}
    if importlib.util.find_spec("libtpu"):
        devices |= {f"TPU {chip}, 2x2": tpus(chip) for chip in TPUS}
    else:
        print("Without libtpu (pip install 'classp_jax[tpu]'): this machine alone.\n")
    print("| update | on | bytes a weight | \u00f7 20 | kept, bytes a weight | sent |")
    print("|---|---|---:|---:|---:|---|")
    for name in UPDATES:
        for where, mesh in devices.items():
            program = update(name, mesh)
            moved, kept = (n / WEIGHTS for n in (program.moved, program.kept))
            print(
                f"| {name} | {where} | {moved:.2f} | {moved / LEAST:.2f} | {kept:.2f} |"
                f" {_in_words(program.sent)} |",
                flush=True,
            )
    print(
        "\nA loop within the program counts as one turn of it: on a CPU, the blocks in"
        " which\nlarge factored sums are made."
    )
    print("\n| train step | weights | on | sent |\n|---|---:|---|---|")
    for name in TRAIN_STEPS:
        for where, mesh in devices.items():
            if mesh:
                sent = _in_words(train_step(name, mesh).sent)
                print(f"| {name} | {weights(name):,} | {where} | {sent} |", flush=True)
    print(
        "\nThe update of so many weights on the fewest chips whose memory holds them,"
        f" their\ngradients and sums, at {LEAST} bytes a weight and the chips'"
        " documented bandwidth:\n"
    )
    print(f"| weights | sums, GB | {' | '.join(f'{c}: chips | ms' for c in MEMORY)} |")
    print("|---" + "|---:" * (1 + 2 * len(MEMORY)) + "|")
    for title, count in SIZES.items():
        cells = [title, f"{4 * count / 1e9:,.0f}"]
        for memory, bandwidth in MEMORY.values():
            chips = math.ceil(HELD * count / memory)
            seconds = LEAST * count / chips / bandwidth
            cells += [f"{chips:,}", f"{1000 * seconds:.1f}"]
        print(f"| {' | '.join(cells)} |")
    print(f"\nJAX {jax.__version__}, Optax {optax.__version__}")


if __name__ == "__main__":
    main()
