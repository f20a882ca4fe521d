"""A head by recursive least squares alone, over a trunk that isn't trained further.

With the trunk as it was initialised it is the online sequential extreme learning
machine (Liang et al. 2006); with the trunk that the first task was learned with, the
analytic class-incremental learning of Zhuang et al. (2022), without its expansion of
the features.
"""

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from examples.methods.registry import RATE, Sweep, TaskSequence
from examples.runner import layers
from examples.runner.carry_over import replaced, states_of
from examples.runner.checks import check_above_0
from examples.runner.evaluation import Classifier, Params
from examples.runner.layers import Layer
from examples.runner.optimizers import register_optimizer
from examples.runner.plan import Family, Phase
from examples.runner.plugin import Boundary, Plugin
from examples.runner.trainer import TrainState

FAMILY = Family("RLS head", "#1f2f66")
_DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_CHUNK = 500  # Examples of a task that pass through the network at once.


class LeastSquaresState(NamedTuple):
    """State of :func:`recursive_least_squares`, of the examples x, y so far.

    Attributes:
      gram: Σ x xᵀ, shape ``(inputs, inputs)``, with a bias one row and column more,
        dtype ``float32``.
      cross: Σ x yᵀ, shape ``(inputs, outputs)``, dtype ``float32``.
    """

    gram: jax.Array
    cross: jax.Array


@register_optimizer
def recursive_least_squares(damping: float) -> optax.GradientTransformationExtraArgs:
    r"""Moves the last layer to the least squares of all examples so far.

    With x its input (a 1 appended if it has a bias) and y 1 for the class of an example
    and 0 for the others, a step ends at the weights W that minimise
    Σ \|y - Wᵀx\|² + damping·\|W\|², (Σ x xᵀ + damping·I)⁻¹ Σ x yᵀ. It is what the
    recursion of the inverse gives, solved for from the two sums, which rounding leaves
    positive. The other weights stay.

    Args:
      damping: above 0.

    Returns:
      An Optax transformation, whose update takes ``layer_inputs``, ``labels`` and
      ``present``, as :class:`examples.runner.trainer.Trainer` gives them.

    Raises:
      ValueError: the damping isn't above 0; at a step, if the last layer by name, the
        head, isn't the last that is called.
    """
    check_above_0("damping", damping)

    def init_fn(params: optax.Params) -> LeastSquaresState:
        return no_examples(params)

    def update_fn(
        updates: optax.Updates,
        state: LeastSquaresState,
        params: optax.Params = None,
        *,
        layer_inputs: Callable[[], OrderedDict[Layer, jax.Array]],
        labels: jax.Array,
        present: jax.Array,
        **extra_args: Any,
    ) -> tuple[optax.Updates, LeastSquaresState]:
        del extra_args
        state = with_examples(state, head_of(params), layer_inputs(), labels, present)
        head = layers.matrices(params)[head_of(params)]
        damped = state.gram + damping * jnp.eye(len(head))
        solved = jax.scipy.linalg.solve(damped, state.cross, assume_a="pos")
        still = jax.tree.map(jnp.zeros_like, updates)
        return layers.with_matrices(still, {head_of(params): solved - head}), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@dataclasses.dataclass(frozen=True)
class HeadOfTask(Plugin):
    """Counts the examples of a task that the whole network was trained on."""

    key: ClassVar[str] = "head_of_task"

    def at_boundary(self, context: Boundary, state: TrainState) -> TrainState:
        """Lets the sums begin with the examples of the phase that has ended."""
        examples = context.ended()
        (sums,) = states_of(state.opt_state, LeastSquaresState)
        for start in range(0, len(examples), _CHUNK):
            which = examples[start : start + _CHUNK]
            inputs, labels = (x[which] for x in context.data)
            classifier = context.trainer.classifier
            sums = _of_examples(classifier, sums, state.params, inputs, labels)
        opt_state = replaced(state.opt_state, LeastSquaresState, lambda _: sums)
        return state._replace(opt_state=opt_state)


@functools.partial(jax.jit, static_argnums=0)
def _of_examples(
    classifier: Classifier,
    sums: LeastSquaresState,
    params: Params,
    inputs: jax.Array,
    labels: jax.Array,
) -> LeastSquaresState:
    seen = classifier.layer_inputs(params, inputs, None)
    present = jnp.ones(len(labels), bool)
    return with_examples(sums, head_of(params), seen, labels, present)


def no_examples(params: optax.Params) -> LeastSquaresState:
    """The sums of none."""
    rows, outputs = layers.matrices(params)[head_of(params)].shape
    return LeastSquaresState(jnp.zeros((rows, rows)), jnp.zeros((rows, outputs)))


def head_of(params: optax.Params) -> Layer:
    """The last layer by name."""
    return max(layers.matrices(params))


def with_examples(
    sums: LeastSquaresState,
    head: Layer,
    seen: OrderedDict[Layer, jax.Array],
    labels: jax.Array,
    present: jax.Array,
) -> LeastSquaresState:
    """The sums with further examples, whichever come first.

    Args:
      sums: of the examples so far.
      head: the layer whose inputs count.
      seen: what each layer sees of the examples.
      labels: their classes, (n,), integer.
      present: whether each counts.

    Returns:
      The sums.

    Raises:
      ValueError: the head isn't the last layer that is called.
    """
    if (last := next(reversed(seen))) != head:
        raise ValueError(
            f"The last layer must be the last by name, {'.'.join(head)}, but it is"
            f" {'.'.join(last)}."
        )
    x = seen[head].astype(jnp.float32) * present[:, None]
    y = jax.nn.one_hot(labels, sums.cross.shape[1])
    return LeastSquaresState(sums.gram + x.T @ x, sums.cross + x.T @ y)


def _untrained(sequence: TaskSequence, damping: float) -> tuple[Phase, ...]:
    return tuple(
        Phase({task: sequence.epochs}, recursive_least_squares, dict(damping=damping))
        for task in sequence.tasks
    )


def _trained(sequence: TaskSequence, damping: float) -> tuple[Phase, ...]:
    (first, *_), (_, second, *others) = (
        sequence.phases("sgd", RATE),
        _untrained(sequence, damping),
    )
    return first, dataclasses.replace(second, plugins=(HeadOfTask(),)), *others


SWEEPS = [
    Sweep("rls", "RLS head, trunk untrained", "δ", _DAMPINGS, _untrained, FAMILY),
    Sweep("rls_first", "RLS head, trunk of task 1", "δ", _DAMPINGS, _trained, FAMILY),
]
