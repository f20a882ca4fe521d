"""Utility-based perturbed gradient descent (Elsayed and Mahmood 2024)."""

import functools

from classp_jax import baselines
from examples.methods.registry import RATES, Sweep, TaskSequence, further
from examples.runner.optimizers import register_optimizer
from examples.runner.plan import Family, Phase

FAMILY = Family("UPGD", "#221133")
# A weight of no utility makes half a step of SGD.
_RATES = tuple(2 * rate for rate in RATES)

register_optimizer(baselines.upgd)


def _phases(
    sequence: TaskSequence, rate: float, *, correct_maximum: bool
) -> tuple[Phase, ...]:
    return sequence.phases("upgd", rate, correct_maximum=correct_maximum)


def _sweep(name: str, title: str, correct_maximum: bool) -> Sweep:
    phases = functools.partial(_phases, correct_maximum=correct_maximum)
    return Sweep(name, title, "α", _RATES, phases, FAMILY, grid="upgd")


SWEEPS = further(
    [
        _sweep("upgd", "UPGD", True),
        _sweep("upgd_released", "UPGD, as released", False),
    ]
)
