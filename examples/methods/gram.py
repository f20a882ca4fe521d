"""CLASSP with a sum for each direction of a layer's inputs: no task is announced."""

import functools

import classp_jax
from examples.methods.registry import RATE, Sweep, TaskSequence
from examples.runner.optimizers import named
from examples.runner.plan import Family, Phase

FAMILY = Family("CLASSP, directions", "#7b3294", width=2.4)
_DAMPINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)

named(classp_jax.classp_gram)


def _phases(
    sequence: TaskSequence, damping: float, *, rate: float
) -> tuple[Phase, ...]:
    return sequence.phases("classp_gram", rate, damping=damping)


SWEEPS = [
    Sweep(
        name,
        title,
        "κ",
        _DAMPINGS,
        functools.partial(_phases, rate=rate),
        FAMILY,
    )
    for name, title, rate in (
        ("gram", "CLASSP, directions", RATE),
        ("gram_fast", "CLASSP, directions, α 0.2", 0.2),
    )
]
