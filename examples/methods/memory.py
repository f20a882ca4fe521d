"""CLASSP whose sums forget, of weights and of directions: for long streams."""

from examples.methods import classp, gram
from examples.methods.registry import Sweep, TaskSequence
from examples.runner.plan import Phase

# Steps, of which the tasks of examples.datasets.streams.permuted_mnist have 313.
_MEMORIES = (100, 300, 1_000, 2_000, 3_000, 6_000, 10_000, 30_000, 100_000)


def _of_weights(sequence: TaskSequence, memory: float) -> tuple[Phase, ...]:
    return classp.collect(sequence, 0.1, memory=memory)


def _of_directions(sequence: TaskSequence, memory: float) -> tuple[Phase, ...]:
    return gram.phases(sequence, damping=1.0, rank=64, memory=memory)


SWEEPS = [
    Sweep(
        "classp_memory",
        "CLASSP, α 0.1, memory",
        "N",
        _MEMORIES,
        _of_weights,
        classp.FAMILY,
        "memory",
    ),
    Sweep(
        "gram_64_memory",
        "CLASSP, 64 directions, κ 1, memory",
        "N",
        _MEMORIES,
        _of_directions,
        gram.FAMILY,
        "memory",
    ),
]
