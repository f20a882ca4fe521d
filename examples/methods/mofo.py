"""The momentum-filtered optimizer (Chen et al. 2024)."""

import functools

from classp_jax import baselines
from examples.methods.registry import Sweep, TaskSequence, further
from examples.runner.optimizers import register_optimizer
from examples.runner.plan import Family, Phase

FAMILY = Family("MoFO", "#5544ff")
_RATES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)  # Adam's.

register_optimizer(baselines.mofo)


def _phases(
    sequence: TaskSequence, rate: float, *, fraction: float
) -> tuple[Phase, ...]:
    return sequence.phases("mofo", rate, fraction=fraction)


def _sweep(name: str, percent: int) -> Sweep:
    phases = functools.partial(_phases, fraction=percent / 100)
    title = f"MoFO, {percent} % of the weights"
    return Sweep(name, title, "α", _RATES, phases, FAMILY, grid="mofo")


# The one that its authors' README shows, and the least that it recommends.
SWEEPS = further([_sweep("mofo", 15), _sweep("mofo_few", 5)])
