"""Synaptic Intelligence: a penalty whose importances are collected while training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from classp_jax import _hyperparameters, _states
from classp_jax._arrays import at_least_float32, refuse_complex
from classp_jax._powers import divide
from classp_jax.baselines._penalty import (
    EwcPenaltyState,
    needed,
    penalized,
    penalty_state,
    shaped_like,
    wide_zeros,
)


class SynapticIntelligenceState(NamedTuple):
    """State of :func:`synaptic_intelligence`.

    Attributes:
      path_integral: how much each weight has reduced the loss since the task began,
        shaped like the parameters; 4 bytes per weight in float32.
      penalty: the :class:`EwcPenaltyState`, with the importance as its Fisher and the
        weights at the task's beginning as its anchor; 8 bytes per weight in float32.
      inner_state: the state of the inner optimizer.
    """

    path_integral: optax.Params
    penalty: EwcPenaltyState
    inner_state: optax.OptState


def synaptic_intelligence(
    inner: optax.GradientTransformation,
    strength: optax.ScalarOrSchedule,
    learning_rate: optax.ScalarOrSchedule = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the penalty of Synaptic Intelligence (SI) to an optimizer.

    During each task it collects the path integral

    .. math:: \omega_i \leftarrow \omega_i - g_i \, \Delta w_i

    Here :math:`g` is the gradient of the task's own loss, and :math:`\Delta w` the step
    that :func:`optax.apply_updates` makes, rounded like the weights. At the end of the
    task, :func:`consolidate` turns it into the importance :math:`\Omega`. From then on
    the optimizer sees the gradient plus that of the penalty
    :math:`\frac{\lambda}{2} \sum_i \Omega_i (w_i - w^*_i)^2`, as :func:`ewc_penalty`
    adds it. There is no penalty on the first task. The :math:`c` of the source is
    :math:`\lambda / 2`.

    Args:
      inner: the whole optimizer, such as ``optax.sgd(0.1)``. Its updates must be the
        steps that are made, one per gradient, so :class:`optax.MultiSteps` goes around
        this and not into it.
      strength: :math:`\lambda \ge 0`; a number, an injected value or a schedule.
      learning_rate: that of ``inner`` if it is SGD; the penalty's step is then implicit
        and stable at any strength. With 0 the penalty has its plain gradient, as in the
        source; this suits other optimizers. A number, an injected value or a schedule.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`, with the state
      :class:`SynapticIntelligenceState`: 12 bytes per weight in float32, plus that of
      ``inner``. ``update`` needs ``params``. A product of gradient and step that isn't
      finite counts as 0, and a path integral is at most the largest number of its
      dtype. With abstract parameters, the anchor is abstract.

    Raises:
      ValueError: if ``strength`` or ``learning_rate`` is negative, not finite or not a
        scalar; in ``init``, if a parameter is complex; in ``update``, without
        ``params`` or if a gradient is complex.
      TypeError: if ``inner`` isn't an Optax transformation, or ``strength`` or
        ``learning_rate`` is neither a number nor a schedule; in ``update``, if a
        gradient is an integer.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from classp_jax.baselines import consolidate, synaptic_intelligence
      >>> params = jnp.array([1.0, 1.0])
      >>> solver = synaptic_intelligence(optax.sgd(0.5), strength=1.0)
      >>> opt_state = solver.init(params)
      >>> gradient = jnp.array([1.0, 0.0])  # the task needs only the first weight
      >>> updates, opt_state = solver.update(gradient, opt_state, params)
      >>> params = optax.apply_updates(params, updates)
      >>> opt_state = consolidate(opt_state, params, damping=0.25)
      >>> print(opt_state.penalty.fisher)  # 0.5 / (0.5² + 0.25)
      [1. 0.]

    References:
      Zenke et al., `Continual Learning Through Synaptic Intelligence
      <https://arxiv.org/abs/1703.04200>`_, 2017: Equations 3 and 4.

    .. seealso:: :func:`consolidate`
    """
    _hyperparameters.check_transformation("inner", inner)
    _hyperparameters.check_not_negative("strength", strength)
    _hyperparameters.check_not_negative("learning_rate", learning_rate)
    optimizer = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> SynapticIntelligenceState:
        refuse_complex(params)
        zeros = wide_zeros(params)
        penalty = penalty_state(params, zeros, params)
        return SynapticIntelligenceState(zeros, penalty, optimizer.init(params))

    def update_fn(
        updates: optax.Updates,
        state: SynapticIntelligenceState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, SynapticIntelligenceState]:
        params = needed("synaptic_intelligence", params)
        grads = updates
        updates, penalty = penalized(
            grads, state.penalty, params, strength, learning_rate
        )
        updates, inner_state = optimizer.update(
            updates, state.inner_state, params, **extra_args
        )

        def collect(
            g: jax.Array | None,
            omega: jax.Array,
            w: jax.typing.ArrayLike,
            u: jax.Array | None,
        ) -> jax.Array:
            if g is None or u is None:
                return omega
            return _bounded(omega - _product(g, _step(w, u), omega.dtype))

        path_integral = jax.tree.map(
            collect,
            grads,
            state.path_integral,
            params,
            updates,
            is_leaf=lambda x: x is None,
        )
        return updates, SynapticIntelligenceState(path_integral, penalty, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def consolidate(
    opt_state: optax.OptState, params: optax.Params, damping: float = 0.1
) -> optax.OptState:
    r"""Ends a task for :func:`synaptic_intelligence` and protects its weights.

    .. math::

      \Omega_i \leftarrow \Omega_i +
        \frac{\max(\omega_i, 0)}{(w_i - w^*_i)^2 + \xi}, \qquad
      w^* \leftarrow w, \qquad \omega \leftarrow 0

    Shapes stay the same, so a compiled step isn't compiled again. A negative path
    integral counts as 0, so that the penalty has a minimum. So does the path integral
    of a weight that isn't finite. An importance is at most the largest number of its
    dtype.

    Args:
      opt_state: any optimizer state that holds a :class:`SynapticIntelligenceState`.
      params: :math:`w`, the weights at the end of the task.
      damping: :math:`\xi > 0`, which limits the importance of weights that have hardly
        moved; a number.

    Returns:
      The state with which the next task begins.

    Raises:
      ValueError: if there is no :class:`SynapticIntelligenceState` in ``opt_state``,
        ``params`` isn't shaped like the parameters of the state (one vector inside
        :func:`optax.flatten`), or ``damping`` isn't above 0 and finite.
      TypeError: if ``damping`` isn't a number.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from classp_jax.baselines import consolidate, synaptic_intelligence
      >>> params = jnp.array([2.0])
      >>> solver = synaptic_intelligence(optax.sgd(0.5), strength=1.0)
      >>> opt_state = consolidate(solver.init(params), params + 1, damping=0.5)
      >>> print(opt_state.penalty.anchor)
      [3.]

    References:
      Zenke et al., `Continual Learning Through Synaptic Intelligence
      <https://arxiv.org/abs/1703.04200>`_, 2017: Equation 5.

    .. seealso:: :func:`synaptic_intelligence`
    """
    if callable(damping):
        raise TypeError(f"damping must be a number, got {damping!r}.")
    _hyperparameters.check_positive("damping", damping)

    def is_state(node: Any) -> bool:
        return isinstance(node, SynapticIntelligenceState)

    def end(node: Any) -> Any:
        if not is_state(node):
            return node
        penalty = node.penalty
        own = shaped_like(penalty.anchor, "params", params)

        def add(
            f: jax.Array,
            omega: jax.Array,
            w: jax.typing.ArrayLike,
            w_star: jax.Array,
        ) -> jax.Array:
            distance = jnp.asarray(w, f.dtype) - jnp.asarray(w_star, f.dtype)
            known = jnp.isfinite(omega) & jnp.isfinite(distance)
            omega, distance = (jnp.where(known, x, 0) for x in (omega, distance))
            xi = jnp.asarray(damping, distance.dtype)
            new = divide(jnp.maximum(omega, 0), jnp.square(distance) + xi)
            return _bounded(f + new.astype(f.dtype))

        importance = jax.tree.map(
            add, penalty.fisher, node.path_integral, own, penalty.anchor
        )
        # A copy, as a step that donates the parameters would take the anchor along.
        anchor = jax.tree.map(
            lambda w_star, w: jnp.array(w, w_star.dtype), penalty.anchor, own
        )
        return SynapticIntelligenceState(
            jax.tree.map(jnp.zeros_like, node.path_integral),
            penalty._replace(fisher=importance, anchor=anchor),
            node.inner_state,
        )

    if not any(map(is_state, jax.tree.leaves(opt_state, is_leaf=is_state))):
        raise ValueError(
            "There is no SynapticIntelligenceState in this optimizer state, which"
            f" {_states.holds(opt_state)}."
        )
    return jax.tree.map(end, opt_state, is_leaf=is_state)


def _step(w: jax.typing.ArrayLike, u: jax.typing.ArrayLike) -> jax.Array:
    """What :func:`optax.apply_updates` changes a weight by, in at least float32."""
    w, u = jnp.asarray(w), jnp.asarray(u)
    wide = jnp.promote_types(at_least_float32(w.dtype), at_least_float32(u.dtype))
    if w.dtype != u.dtype and 1 in (w.dtype.itemsize, u.dtype.itemsize):
        u = u.astype(wide)  # As float8 promotes to no other.
        new = (w.astype(wide) + u).astype(w.dtype)
    else:  # To the letter, so that a compiled step rounds both alike.
        new = optax.apply_updates(w, u)
    new = new.astype(wide)
    if w.dtype == jnp.bfloat16:  # XLA may have left out the rounding, within a program.
        new = jax.lax.reduce_precision(new, exponent_bits=8, mantissa_bits=7)
    return new - w.astype(wide)


def _product(
    g: jax.typing.ArrayLike, step: jax.Array, dtype: jax.typing.DTypeLike
) -> jax.Array:
    """Gradient times step; 0 where that isn't finite."""
    g, step = jnp.asarray(g, dtype), step.astype(dtype)
    # The operands are selected: the derivative of a selected NaN would be NaN.
    finite = jnp.isfinite(g * step)
    return jnp.where(finite, g, 0) * jnp.where(finite, step, 0)


def _bounded(x: jax.Array) -> jax.Array:
    """The nearest finite number."""
    largest = np.finfo(x.dtype).max
    return jnp.clip(x, -largest, largest)
