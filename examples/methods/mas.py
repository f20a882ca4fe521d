"""Memory Aware Synapses (Aljundi et al. 2018)."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from classp_jax import baselines
from examples.methods.quadratic_penalty import (
    EXAMPLES,
    QuadraticPenalty,
    examples_before,
    gradients_at_once,
    with_penalty_of,
)
from examples.methods.registry import further, with_penalty
from examples.runner.carry_over import states_of
from examples.runner.checks import check_positive_int
from examples.runner.data import Split
from examples.runner.evaluation import Classifier
from examples.runner.plan import Family
from examples.runner.plugin import Boundary
from examples.runner.trainer import TrainState

FAMILY = Family("MAS", "#000077")


@dataclasses.dataclass(frozen=True)
class MAS(QuadraticPenalty):
    """The penalty of Memory Aware Synapses, before the optimizer.

    As in its authors' code, importances of tasks add up, and the anchor is the weights
    at the end of the last one. Its strength is twice the lambda of its paper.

    Attributes:
      examples: of how many examples of a task importances are the mean.
    """

    examples: int = EXAMPLES

    key: ClassVar[str] = "mas"
    importances: ClassVar[str] = "sensitivities of the outputs"

    def check(self, phases_before: int, tasks_before: int, batch_size: int) -> None:
        """Refuses importances of nothing."""
        check_positive_int("mas's examples", self.examples)
        super().check(phases_before, tasks_before, batch_size)

    def at_boundary(self, context: Boundary, state: TrainState) -> TrainState:
        """Adds the importances of the task that has ended; renews the anchor."""
        importance = context.compute_once(
            (self.key, self.examples),
            lambda: importance_of_examples(
                context.trainer.classifier,
                state.params,
                examples_before(context, self.examples),
                gradients_at_once(state.params),
            ),
        )
        before = states_of(context.before.opt_state, baselines.EwcPenaltyState)
        for so_far in before:
            importance = jax.tree.map(jnp.add, so_far.fisher, importance)
        return with_penalty_of(state, importance, state.params)


@functools.partial(jax.jit, static_argnames=("classifier", "batch_size"))
def importance_of_examples(
    classifier: Classifier, params: optax.Params, examples: Split, batch_size: int
) -> optax.Params:
    """The importances, compiled once for all boundaries with the same model.

    An example's output is the logits of its own head, with dropout off.
    """

    def output(params: optax.Params, example: jax.Array, label: jax.Array) -> jax.Array:
        logits = classifier.logits(params, example[None], None)
        own = classifier.mask_other_heads(logits, label[None])
        return jnp.where(own == -jnp.inf, 0, own)

    return baselines.mas_importance(output, params, *examples, batch_size=batch_size)


SWEEPS = further(
    with_penalty(
        "mas",
        "MAS",
        MAS,
        (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3),
        FAMILY,
    )
)
