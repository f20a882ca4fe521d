"""Elastic weight consolidation (Kirkpatrick et al. 2017), and its online kind."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from classp_jax import baselines, interop
from examples.methods.quadratic_penalty import (
    EXAMPLES,
    SEPARATE,
    QuadraticPenalty,
    examples_before,
    gradients_at_once,
    with_penalty_of,
)
from examples.methods.registry import RATE, Sweep, TaskSequence, with_penalty
from examples.runner.carry_over import collected_sums, kind_of_sum, states_of
from examples.runner.checks import check_positive_int
from examples.runner.data import Split
from examples.runner.plan import Family, Phase
from examples.runner.plugin import Boundary
from examples.runner.trainer import Trainer, TrainState

FAMILY = Family("EWC", "#cc79a7")
_FISHERS = ("examples", "steps", "moment", "batches")
_EVERY = 6  # Segments of a stream that drifts, where no task ends.
_ONLINE = 0.9  # What online EWC keeps of its Fisher at each boundary.


@dataclasses.dataclass(frozen=True)
class EWC(QuadraticPenalty):
    """Elastic weight consolidation's penalty, before the optimizer.

    Attributes:
      fisher: ``"examples"``, the mean squared gradient of single examples of the phase
        before at the weights that it ended with, which are the anchor; ``"steps"``, as
        the paper's text experiment has it: the mean squared gradient of the batches
        that led to those weights, summed by an optimizer with ``power=2``;
        ``"moment"``, the same from Adam's second moment, in which are the gradients of
        a penalty too if that phase had one; or ``"batches"``, as its vision experiment
        has it: the squared gradients of one epoch's batches, summed and divided by the
        number of examples, along the first epoch of a network initialised separately,
        whose weights are the anchor.
      examples: how many examples ``"examples"`` takes.
      implicit: whether the penalty's step is solved implicitly, stable at any strength.
      decay: where ``"examples"`` or ``"moment"`` are taken at several boundaries: None
        for the sum of their penalties; a number for online EWC, which multiplies the
        Fisher so far by it and draws to the last weights alone.
      every: at which boundaries Fisher and anchor are renewed, where nobody says when a
        task has ended: at one in so many. None for each.
    """

    fisher: str = "examples"
    examples: int = 4000
    implicit: bool = True
    decay: float | None = None
    every: int | None = None

    key: ClassVar[str] = "ewc"
    importances: ClassVar[str] = "Fisher information"

    def check(self, phases_before: int, tasks_before: int, batch_size: int) -> None:
        """Refuses a Fisher that there is no such, or of nothing."""
        if self.fisher not in _FISHERS:
            raise ValueError(
                f"ewc's fisher must be {', '.join(map(repr, _FISHERS))}, got"
                f" {self.fisher!r}."
            )
        check_positive_int("ewc's examples", self.examples)
        if self.every is not None:
            check_positive_int("ewc's every", self.every)
        super().check(phases_before, tasks_before, batch_size)

    def check_boundary(self, before: Phase, ended_with: TrainState) -> None:
        """Refuses a Fisher of steps that are no squares, or not each weight's own."""
        if self.fisher == "steps" and not _collects_squares(before, ended_with):
            raise ValueError(
                "ewc's fisher='steps' is the sum of squares that the phase before"
                f" collects, but its optimizer, {before.optimizer_name}, collects none;"
                " it must be one with power=2 and factored=False, such as classp."
            )
        super().check_boundary(before, ended_with)

    def implicit_rate(self, phase: Phase) -> optax.ScalarOrSchedule:
        """The phase's rate, or 0 for an explicit step."""
        return super().implicit_rate(phase) if self.implicit else 0.0

    def at_boundary(self, context: Boundary, state: TrainState) -> TrainState:
        """Puts Fisher and anchor into the optimizer's state."""
        so_far = states_of(context.before.opt_state, baselines.EwcPenaltyState)
        if len(context.earlier) % (self.every or 1) == 0:
            penalties = [self._renewed(context, state, so_far)]
        else:
            penalties = [(of.fisher, of.anchor) for of in so_far]
        for fisher, anchor in penalties:  # None or one.
            state = with_penalty_of(state, fisher, anchor)
        return state

    def _renewed(
        self,
        context: Boundary,
        state: TrainState,
        so_far: list[baselines.EwcPenaltyState],
    ) -> tuple[optax.Params, optax.Params]:
        """Fisher and anchor with those of what has been learned since they were."""
        anchor = state.params
        if self.fisher == "steps":
            fisher = _of_steps(context.before)
        elif self.fisher == "moment":
            fisher = interop.estimate_grad_sum(
                context.before.opt_state, state.params, power=2, steps=1
            )
        elif self.fisher == "batches":
            fisher, anchor = _of_batches(context)
        else:
            fisher = context.compute_once(
                (self.key, self.examples), lambda: self._of_examples(context, state)
            )
        if self.fisher in ("examples", "moment"):
            for before in so_far:
                fisher, anchor = self._with_those_before(before, fisher, anchor)
        return fisher, anchor

    def penalty(self, states: TrainState) -> jax.Array | float:
        """The penalty where it is explicit, as the paper's text experiment has it."""
        if self.implicit:
            return 0.0
        penalty: jax.Array = _explicit(states.params, states.opt_state, self.strength)
        return penalty

    def _of_examples(self, context: Boundary, state: TrainState) -> optax.Params:
        """Of some that the phase before was trained on, at its last weights."""
        return fisher_of_examples(
            context.trainer,
            state.params,
            examples_before(context, self.examples, self.every or 1),
            gradients_at_once(state.params),
        )

    def _with_those_before(
        self,
        before: baselines.EwcPenaltyState,
        fisher: optax.Params,
        anchor: optax.Params,
    ) -> tuple[optax.Params, optax.Params]:
        """Fisher and anchor of the penalties so far and a further one."""
        so_far, drawn_to = before.fisher, before.anchor
        if (decay := self.decay) is not None:
            return jax.tree.map(lambda f, g: decay * f + g, so_far, fisher), anchor

        # A sum of squared distances is one to their weighted mean, and a constant.
        def weighted_mean(
            f: jax.Array, w: jax.Array, g: jax.Array, v: jax.Array
        ) -> jax.Array:
            share = f / jnp.maximum(f + g, jnp.finfo(f.dtype).tiny)
            return (v + share * (w - v)).astype(v.dtype)

        return (
            jax.tree.map(jnp.add, so_far, fisher),
            jax.tree.map(weighted_mean, so_far, drawn_to, fisher, anchor),
        )


@functools.partial(jax.jit, static_argnames=("trainer", "batch_size"))
def fisher_of_examples(
    trainer: Trainer, params: optax.Params, examples: Split, batch_size: int
) -> optax.Params:
    """The Fisher diagonal, compiled once for all boundaries with the same trainer."""
    return baselines.fisher_diagonal(
        trainer.example_loss, params, *examples, batch_size=batch_size
    )


def _collects_squares(phase: Phase, ended_with: TrainState) -> bool:
    collected = collected_sums(ended_with.opt_state)
    if len(collected) != 1 or kind_of_sum(phase) != "|g|^2":
        return False
    trees = collected[0].grad_sum, ended_with.params
    of_sum, of_weights = ([x.shape for x in jax.tree.leaves(tree)] for tree in trees)
    return of_sum == of_weights


def _of_steps(before: TrainState) -> optax.Params:
    (collected,) = collected_sums(before.opt_state)
    return jax.tree.map(lambda s: s / before.step, collected.grad_sum)


def _of_batches(context: Boundary) -> tuple[optax.Params, optax.Params]:
    first = next(iter(context.examples))
    hyperparameters = dict(
        learning_rate=context.phase.learning_rate, power=2, apply_decay=False
    )
    separate = Phase({first: 1}, "classp", hyperparameters)
    state = context.train((separate,), context.seed + SEPARATE)
    (collected,) = collected_sums(state.opt_state)
    count = len(context.examples[first])
    return jax.tree.map(lambda s: s / count, collected.grad_sum), state.params


@jax.jit
def _explicit(params: Any, opt_state: Any, strength: float) -> jax.Array:
    """The penalty of each seed."""

    def of_seed(params: Any, opt_state: Any) -> jax.Array:
        (of,) = states_of(opt_state, baselines.EwcPenaltyState)
        terms = jax.tree.map(
            lambda f, w, w_star: jnp.sum(f * (w - w_star) ** 2),
            of.fisher,
            params,
            of.anchor,
        )
        return jnp.asarray(strength / 2 * sum(jax.tree.leaves(terms)))

    return jax.vmap(of_seed)(params, opt_state)


def _by_the_clock(sequence: TaskSequence, strength: float) -> tuple[Phase, ...]:
    ewc = EWC(strength, examples=EXAMPLES, decay=_ONLINE, every=_EVERY)
    return sequence.phases("sgd", RATE, then=(ewc,))


SWEEPS = [
    *with_penalty(
        "ewc",
        "EWC",
        lambda strength: EWC(strength, examples=EXAMPLES),
        (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
        FAMILY,
    ),
    *with_penalty(
        "ewc_online",
        "EWC, online",
        lambda strength: EWC(strength, examples=EXAMPLES, decay=_ONLINE),
        (1, 3, 10, 30, 100, 300, 1000, 3000, 10000),
        FAMILY,
    ),
    Sweep(
        "ewc_online_clock",
        f"EWC, online, every {_EVERY} segments",
        "λ",
        (1, 3, 10, 30, 100, 300, 1000, 3000, 10000),
        _by_the_clock,
        FAMILY,
        "clock",
    ),
]
