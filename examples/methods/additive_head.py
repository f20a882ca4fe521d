"""A last layer solved for where a task ends, from sums over all examples so far.

The sums add up along the stream, whichever classes come first, so that over features
that stay the head is that of all tasks at once: over random ones an extreme learning
machine (Huang et al. 2006, https://doi.org/10.1016/j.neucom.2005.12.126). Over a trunk
that is trained on, what was added before is of features that are no more.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.methods import gram
from examples.methods.recursive_least_squares import (
    LeastSquaresState,
    head_of,
    no_examples,
    with_examples,
)
from examples.methods.registry import Sweep, TaskSequence
from examples.runner import layers
from examples.runner.carry_over import replaced, states_of
from examples.runner.checks import check_above_0
from examples.runner.evaluation import Params
from examples.runner.layers import Layer
from examples.runner.optimizers import register_optimizer
from examples.runner.plan import Family, Phase
from examples.runner.plugin import Boundary, Plugin
from examples.runner.trainer import TrainState

FAMILY = Family("Additive head", "#3344cc", ours=True)
_DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_KAPPAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

register_optimizer(optax.set_to_zero)


def solved(sums: LeastSquaresState, damping: float) -> np.ndarray:
    r"""The ridge regression of some sums, (Σ x xᵀ + damping·I)⁻¹ Σ x yᵀ.

    Args:
      sums: of the examples, in any order.
      damping: above 0.

    Returns:
      The weights, (inputs, outputs), float64.
    """
    gram, cross = (np.asarray(x, np.float64) for x in sums)
    solution: np.ndarray = np.linalg.solve(gram + damping * np.eye(len(gram)), cross)
    return solution


class AdditiveHeadState(NamedTuple):
    """State of :class:`AdditiveHead`, around that of an optimizer.

    Attributes:
      sums: over all examples so far.
      trained: the head that the trunk is trained with, while another stands in its
        place.
      inner: the optimizer's.
    """

    sums: LeastSquaresState
    trained: jax.Array
    inner: optax.OptState


@dataclasses.dataclass(frozen=True)
class AdditiveHead(Plugin):
    """Collects what the head sees, and puts the solution in its place at the end.

    Training goes on with the head that it had.

    Attributes:
      damping: of the ridge regression, above 0.
    """

    damping: float

    key: ClassVar[str] = "additive_head"

    def check(self, phases_before: int, tasks_before: int, batch_size: int) -> None:
        """Refuses a damping of nothing."""
        del phases_before, tasks_before, batch_size
        check_above_0("additive_head's damping", self.damping)

    def wrap(
        self,
        optimizer: optax.GradientTransformation,
        phase: Phase,
        zeros: optax.Params,
    ) -> optax.GradientTransformation:
        """Lets each step add its examples, as the trunk is before it."""
        del phase, zeros
        return collecting(optimizer)

    def wrapping(self) -> Plugin:
        """Any: what is compiled doesn't know the damping."""
        return AdditiveHead(1.0)

    def at_boundary(self, context: Boundary, state: TrainState) -> TrainState:
        """Puts the head back that training goes on with."""
        del context
        (of,) = states_of(state.opt_state, AdditiveHeadState)
        return state._replace(params=_with_head(state.params, of.trained))

    def at_end(self, state: TrainState) -> TrainState:
        """Keeps that head, and puts the solution in its place."""
        trained = layers.matrices(state.params)[head_of(state.params)]
        (of,) = states_of(state.opt_state, AdditiveHeadState)
        opt_state = replaced(
            state.opt_state, AdditiveHeadState, lambda x: x._replace(trained=trained)
        )
        head = jnp.asarray(solved(of.sums, self.damping), jnp.float32)
        return state._replace(
            params=_with_head(state.params, head), opt_state=opt_state
        )


def collecting(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Puts the sums around an optimizer, which goes on as it would.

    Args:
      optimizer: any that takes no examples itself.

    Returns:
      An Optax transformation, whose update takes ``layer_inputs``, ``labels`` and
      ``present``, as :class:`examples.runner.trainer.Trainer` gives them.
    """

    def init_fn(params: optax.Params) -> AdditiveHeadState:
        trained = jnp.zeros_like(layers.matrices(params)[head_of(params)])
        return AdditiveHeadState(no_examples(params), trained, optimizer.init(params))

    def update_fn(
        updates: optax.Updates,
        state: AdditiveHeadState,
        params: optax.Params = None,
        *,
        layer_inputs: Callable[[], OrderedDict[Layer, jax.Array]],
        labels: jax.Array,
        present: jax.Array,
        **extra_args: Any,
    ) -> tuple[optax.Updates, AdditiveHeadState]:
        del extra_args
        sums = with_examples(
            state.sums, head_of(params), layer_inputs(), labels, present
        )
        updates, inner = optimizer.update(updates, state.inner, params)
        return updates, AdditiveHeadState(sums, state.trained, inner)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _with_head(params: Params, head: jax.Array) -> Params:
    with_head: Params = layers.with_matrices(params, {head_of(params): head})
    return with_head


def _untrained(sequence: TaskSequence, damping: float) -> tuple[Phase, ...]:
    plugins = (AdditiveHead(damping),)
    return tuple(
        Phase({task: sequence.epochs}, "set_to_zero", {}, plugins)
        for task in sequence.tasks
    )


def _of_directions(sequence: TaskSequence, kappa: float) -> tuple[Phase, ...]:
    return tuple(
        dataclasses.replace(phase, plugins=(AdditiveHead(1.0),))
        for phase in gram.phases(sequence, kappa, rank=64)
    )


SWEEPS = [
    Sweep("head", "Additive head, trunk untrained", "δ", _DAMPINGS, _untrained, FAMILY),
    Sweep(
        "head_gram_64",
        "CLASSP, 64 directions, additive head",
        "κ",
        _KAPPAS,
        _of_directions,
        FAMILY,
    ),
]
