"""L2-SP (Li et al. 2018): a pull to the weights of before, the same for all."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from examples.methods.quadratic_penalty import QuadraticPenalty, with_penalty_of
from examples.methods.registry import further, with_penalty
from examples.runner.plan import Family, Phase
from examples.runner.plugin import Boundary
from examples.runner.trainer import TrainState

FAMILY = Family("L2-SP", "#885588")


@dataclasses.dataclass(frozen=True)
class L2SP(QuadraticPenalty):
    """The penalty of L2-SP, before the optimizer: EWC's with a Fisher of ones.

    Its starting point is renewed at each boundary. No layer of a stream is new, so that
    none decays to 0 instead.
    """

    key: ClassVar[str] = "l2_sp"

    def check_boundary(self, before: Phase, ended_with: TrainState) -> None:
        """Refuses nothing, as it keeps no importances."""

    def at_boundary(self, context: Boundary, state: TrainState) -> TrainState:
        """Pulls to the weights that the task begins with."""
        del context
        ones = jax.tree.map(jnp.ones_like, state.params)
        return with_penalty_of(state, ones, state.params)


SWEEPS = further(
    with_penalty(
        "l2_sp",
        "L2-SP",
        L2SP,
        (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3),
        FAMILY,
    )
)
