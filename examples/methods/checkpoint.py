"""Gradient sums for a model that another optimizer has trained, from what there is."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

import classp_jax
from classp_jax import interop
from examples.datasets import digits
from examples.runner.carry_over import replaced
from examples.runner.checks import check_positive_int
from examples.runner.data import Split
from examples.runner.plan import Phase, make_optimizer
from examples.runner.plugin import Boundary, Plugin
from examples.runner.trainer import TrainState

SOURCES = ("moment", "data", "unlabelled", "other", "noise")
BATCH = 32
"""Examples of each batch of a pass, which leaves out what makes none."""
_SEPARATE = 2000  # Added to the seed: of the examples, and of labels from the model.


@dataclasses.dataclass(frozen=True)
class Sums(Plugin):
    """Gradient sums at the boundary, from what is left of the phase before.

    Attributes:
      source: ``"moment"``, Adam's second moment, for sums per weight; or a pass at the
        final weights, over ``"data"``, examples of that phase with their labels;
        ``"unlabelled"``, the same with labels drawn from the model; ``"other"``, digits
        of another data set with such labels, where the inputs are MNIST's;
        ``"noise"``, pixels or other bytes drawn uniformly with such labels.
      examples: how many a pass takes.
      passes: how many passes; a sum per weight is multiplied, as no weight moves.
      batch_size: examples a gradient of the pass; None for 32. Means over a batch
        cancel much of what single examples say.
    """

    source: str
    examples: int = 1000
    passes: int = 1
    batch_size: int | None = None

    key: ClassVar[str] = "sums"

    def check(self, phases_before: int, tasks_before: int, batch_size: int) -> None:
        """Refuses a source that there is no such, and sums of nothing."""
        del tasks_before, batch_size
        if self.source not in SOURCES:
            raise ValueError(
                f"sums' source must be {', '.join(map(repr, SOURCES))}, got"
                f" {self.source!r}."
            )
        check_positive_int("sums' examples", self.examples)
        check_positive_int("sums' passes", self.passes)
        if self.batch_size is not None:
            check_positive_int("sums' batch_size", self.batch_size)
        if not phases_before:
            raise ValueError("sums are of a phase before, got the first.")

    def at_boundary(self, context: Boundary, state: TrainState) -> TrainState:
        """Puts the sums into the optimizer's state."""
        if self.source == "moment":
            of_adam = context.before.opt_state
            grad_sum = interop.estimate_grad_sum(of_adam, state.params)
            opt_state = interop.with_grad_sum(state.opt_state, grad_sum)
        else:
            opt_state = classp_jax.collect(
                _optimizer(context.phase, state),
                lambda params, batch: jnp.mean(
                    jax.vmap(context.trainer.example_loss, (None, 0, 0))(params, *batch)
                ),
                state.opt_state,
                state.params,
                self._batches(context, state),
            )
            opt_state = replaced(
                opt_state,
                classp_jax.ScaleByAccumulatedPowerNormState,
                lambda of: of._replace(
                    grad_sum=jax.tree.map(lambda s: self.passes * s, of.grad_sum)
                ),
            )
        return state._replace(opt_state=opt_state)

    def _batches(self, context: Boundary, state: TrainState) -> list[Split]:
        examples = self._examples(context)
        if self.source != "data":
            inputs = jnp.asarray(examples.inputs)
            logits = context.trainer.classifier.logits(state.params, inputs, None)
            key = jax.random.key(context.seed + _SEPARATE)
            drawn = jax.random.categorical(key, logits.astype(jnp.float32))
            examples = Split(examples.inputs, drawn)
        size = self.batch_size or BATCH
        return [
            Split(*(jnp.asarray(x[i : i + size]) for x in examples))
            for i in range(0, len(examples.labels) // size * size, size)
        ]

    def _examples(self, context: Boundary) -> Split:
        rng = np.random.default_rng([context.seed, _SEPARATE])
        if self.source == "other":
            other, own = digits.load_other(self.examples), context.data.inputs
            if own.shape[1:] != other.inputs.shape[1:]:
                raise ValueError(
                    "The examples of sums' source 'other' are digits, (28, 28, 1), not"
                    f" {own.dtype} of shape {own.shape[1:]}."
                )
            return other
        which = rng.choice(context.ended(), self.examples, replace=False)
        examples: Split = jax.tree.map(lambda x: x[which], context.data)
        if self.source == "noise":
            shape = np.shape(examples.inputs)
            drawn = rng.integers(0, 256, shape, dtype=np.uint8)
            return Split(drawn, examples.labels)
        return examples


def _optimizer(phase: Phase, state: TrainState) -> optax.GradientTransformation:
    """A phase's, without the plugins around it, but for those that change the model.

    If the phase itself never refreshes its directions, each example of the pass does.
    """
    kept = [p for p in phase.plugins if type(p).model is not Plugin.model]
    hyperparameters = dict(phase.hyperparameters)
    if phase.arguments.get("refresh_every", 1) is None:
        hyperparameters["refresh_every"] = 1
    in_pass = dataclasses.replace(
        phase, hyperparameters=hyperparameters, plugins=tuple(kept)
    )
    return make_optimizer(in_pass, jax.tree.map(jnp.zeros_like, state.params))
