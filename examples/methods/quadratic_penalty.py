"""A pull to the weights of before, which EWC, MAS and L2-SP have in common."""

import dataclasses
from typing import ClassVar

import jax
import numpy as np
import optax

from classp_jax import baselines
from examples.runner.data import Split
from examples.runner.plan import Phase
from examples.runner.plugin import Boundary, Plugin
from examples.runner.trainer import TrainState

SEPARATE = 1000  # Added to the seed, for what is drawn apart from a run's own.
EXAMPLES = 1000  # A task, on streams.
_WEIGHTS = 2**27  # Of gradients held at once, 4 bytes each.


@dataclasses.dataclass(frozen=True)
class QuadraticPenalty(Plugin):
    """A penalty before the optimizer, its step solved implicitly.

    Attributes:
      strength: lambda, of a penalty of lambda / 2 times the weighted squared distance.
      importances: what the weights of the squares are, in words: a penalty goes on from
        one of its own kind alone.
    """

    strength: float

    is_penalty: ClassVar[bool] = True
    importances: ClassVar[str]

    def check(self, phases_before: int, tasks_before: int, batch_size: int) -> None:
        """Refuses the first phase, before which there are no weights."""
        del tasks_before, batch_size
        if not phases_before:
            raise ValueError(
                f"{self.key} draws to the weights of a phase before, got the first."
            )

    def check_boundary(self, before: Phase, ended_with: TrainState) -> None:
        """Refuses importances of another kind."""
        del ended_with
        for other in before.plugins:
            if other.is_penalty and not isinstance(other, type(self)):
                raise ValueError(
                    f"{self.key} can't go on from {other.key}, whose importances are no"
                    f" {self.importances}."
                )

    def wrap(
        self,
        optimizer: optax.GradientTransformation,
        phase: Phase,
        zeros: optax.Params,
    ) -> optax.GradientTransformation:
        """Puts the penalty before the optimizer; its weights come at the boundary."""
        rate = self.implicit_rate(phase)
        penalty = baselines.ewc_penalty(zeros, zeros, self.strength, rate)
        return optax.chain(penalty, optimizer)

    def implicit_rate(self, phase: Phase) -> optax.ScalarOrSchedule:
        """The learning rate that the penalty's step is solved with."""
        return phase.learning_rate


def with_penalty_of(
    state: TrainState, fisher: optax.Params, anchor: optax.Params
) -> TrainState:
    """The state with other importances and another anchor in its optimizer's."""
    return state._replace(
        opt_state=baselines.set_penalty(state.opt_state, fisher, anchor)
    )


def examples_before(context: Boundary, count: int, phases: int = 1) -> Split:
    """Some examples that the phase before, or so many of them, was trained on."""
    examples = context.ended(phases)
    rng = np.random.default_rng([context.seed, SEPARATE])
    which = examples[rng.choice(len(examples), min(count, len(examples)), False)]
    data: Split = jax.tree.map(lambda x: x[which], context.data)
    return data


def gradients_at_once(params: optax.Params) -> int:
    """Of how many single examples memory holds the gradients, 32 at most."""
    weights: int = sum(p.size for p in jax.tree.leaves(params))
    return min(32, max(1, _WEIGHTS // weights))
