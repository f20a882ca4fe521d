"""Synaptic Intelligence (Zenke et al. 2017)."""

import dataclasses
from typing import ClassVar

import optax

from classp_jax import baselines
from examples.methods.registry import with_penalty
from examples.runner.plan import Family, Phase
from examples.runner.plugin import Boundary, Plugin
from examples.runner.trainer import TrainState

FAMILY = Family("SI", "#114422")


@dataclasses.dataclass(frozen=True)
class SynapticIntelligence(Plugin):
    """Synaptic Intelligence around SGD, the penalty's step solved implicitly.

    The importances go on from phase to phase where all have it.

    Attributes:
      strength: lambda, as EWC's; twice the c of its paper.
      damping: xi, for weights that hardly move.
    """

    strength: float
    damping: float = 0.1

    key: ClassVar[str] = "si"
    is_penalty: ClassVar[bool] = True

    def wrap(
        self,
        optimizer: optax.GradientTransformation,
        phase: Phase,
        zeros: optax.Params,
    ) -> optax.GradientTransformation:
        """Follows what the optimizer does, and adds the penalty's step to it."""
        del zeros
        return baselines.synaptic_intelligence(
            optimizer, self.strength, phase.learning_rate
        )

    def at_boundary(self, context: Boundary, state: TrainState) -> TrainState:
        """Makes importances of what was followed along the task that has ended."""
        del context
        opt_state = baselines.consolidate(state.opt_state, state.params, self.damping)
        return state._replace(opt_state=opt_state)


SWEEPS = with_penalty(
    "si",
    "SI",
    SynapticIntelligence,
    (0.3, 1, 3, 10, 30, 100, 300, 1000, 3000),
    FAMILY,
    first=True,
)
