"""CLASSP with a sum for each direction of a layer's inputs: no task is announced."""

import functools
from typing import Any

import classp_jax
from examples.methods.registry import RATE, Sweep, TaskSequence, at_rates
from examples.runner.optimizers import register_optimizer
from examples.runner.plan import Family, Phase

FAMILY = Family("CLASSP, directions", "#7b3294", width=2.4)
_DAMPINGS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
# What a direction has moved when it has slowed to a half is of the order of ακ, which
# the scale keeps.
_SPEEDS = {
    "": (RATE, 1.0, ""),
    "_slow": (0.01, 5.0, ", α 0.01"),
    "_fast": (0.2, 0.2, ", α 0.2"),
}

register_optimizer(classp_jax.classp_gram)


def phases(
    sequence: TaskSequence,
    damping: float,
    *,
    rank: int | None,
    rate: float = RATE,
    **hyperparameters: Any,
) -> tuple[Phase, ...]:
    """A phase a task, all alike."""
    return sequence.phases(
        "classp_gram", rate, damping=damping, rank=rank, **hyperparameters
    )


def _of_rank(rank: int) -> Sweep:
    title, of_rank = f"CLASSP, {rank} directions", functools.partial(phases, rank=rank)
    return Sweep(f"gram_{rank}", title, "κ", _DAMPINGS, of_rank, FAMILY, "rank")


def _grid(name: str, title: str, rank: int | None) -> list[Sweep]:
    of_rank = functools.partial(phases, rank=rank)
    return at_rates(name, title, "κ", _DAMPINGS, of_rank, FAMILY, _SPEEDS)


SWEEPS = [
    *_grid("gram", "CLASSP, directions", None),
    *_grid("gram_64", "CLASSP, 64 directions", 64),
    *map(_of_rank, (16, 32, 128)),
]
