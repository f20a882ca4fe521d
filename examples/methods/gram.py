"""CLASSP with a sum for each direction of a layer's inputs: no task is announced."""

import functools

import classp_jax
from examples.methods.registry import RATE, Sweep, TaskSequence
from examples.runner.optimizers import register_optimizer
from examples.runner.plan import Family, Phase

FAMILY = Family("CLASSP, directions", "#7b3294", width=2.4)
_DAMPINGS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

register_optimizer(classp_jax.classp_gram)


def _phases(
    sequence: TaskSequence, damping: float, rank: int | None = None
) -> tuple[Phase, ...]:
    return sequence.phases("classp_gram", RATE, damping=damping, rank=rank)


def _of_rank(rank: int, group: str) -> Sweep:
    phases = functools.partial(_phases, rank=rank)
    title = f"CLASSP, {rank} directions"
    return Sweep(f"gram_{rank}", title, "κ", _DAMPINGS, phases, FAMILY, group)


SWEEPS = [
    Sweep("gram", "CLASSP, directions", "κ", _DAMPINGS, _phases, FAMILY),
    _of_rank(64, "all"),
    *(_of_rank(rank, "rank") for rank in (16, 32, 128)),
]
