"""Bayesian gradient descent (Zeno et al. 2018), evaluated at its means."""

import dataclasses
from typing import ClassVar

from classp_jax import baselines
from examples.methods.registry import Sweep, TaskSequence, further
from examples.runner.optimizers import register_optimizer
from examples.runner.plan import Family, Phase
from examples.runner.plugin import Plugin
from examples.runner.trainer import TrainState

FAMILY = Family("BGD", "#0000ff")
# Up to those of its authors' experiments, 0.011 to 0.06. They average ten samples.
_INITIAL_STDS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06)

register_optimizer(baselines.bgd)


@dataclasses.dataclass(frozen=True)
class AtMeans(Plugin):
    """Measures accuracy at the means of the weights, not at a sample."""

    key: ClassVar[str] = "at_means"

    def at_measurement(self, state: TrainState) -> TrainState:
        """Takes the means in place of the sample."""
        params = baselines.bgd_eval_params(state.opt_state, state.params)
        return state._replace(params=params)


def _phases(sequence: TaskSequence, initial_std: float) -> tuple[Phase, ...]:
    plugins = (AtMeans(),)
    return sequence.phases(
        "bgd",
        1.0,
        first=plugins,
        then=plugins,
        initial_std=initial_std,
        batch_size=sequence.batch_size,
    )


SWEEPS = further([Sweep("bgd", "BGD", "σ₀", _INITIAL_STDS, _phases, FAMILY)])
