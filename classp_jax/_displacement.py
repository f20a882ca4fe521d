"""Bounds how far a weight can have moved, given the gradient sums of two states."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from classp_jax import _hyperparameters, _states, _sums
from classp_jax._arrays import at_least_float32


def displacement_bound(
    before: optax.OptState,
    after: optax.OptState,
    learning_rate: float | jax.Array,
    *,
    power: float = 1.0,
    eps: float | jax.Array = 1e-5,
    bounded: bool = False,
    include_current: bool = True,
) -> optax.Params:
    r"""Bounds how far CLASSP can have moved each weight between two states.

    Every gradient that moves a weight adds to its sum. If the sum grows from
    :math:`s_0` to :math:`s_T` in :math:`T` steps, with the decay applied in all of
    them, all updates of the weight together are at most this long:

    .. math::

      \sum_{t=1}^T |\Delta w_t|
        \le \alpha\, T^{1 - 1/p} \left(
          \ln \frac{\varepsilon + s_T}{\varepsilon + s_0} \right)^{1/p}
        \quad (p \ge 1), \qquad
      \sum_{t=1}^T |\Delta w_t|
        \le \alpha \ln \frac{\varepsilon + s_T}{\varepsilon + s_0}
        \quad (p \le 1)

    With ``bounded`` the bound is :math:`\varepsilon^{1/p}` times this. The function
    returns a tighter bound: the least one that holds for all gradients, and that some
    gradients reach. It is linear in the learning rate. So to stay within a budget, use
    the budget divided by the bound at a rate of 1 as the learning rate. If the divisor
    doesn't contain the present gradient, the bound is

    .. math::

      \sum_{t=1}^T |\Delta w_t| \le \alpha\, T^{\max(1 - 1/p,\, 0)} \left(
        \frac{s_T - s_0}{\varepsilon + s_0} \right)^{1/p}

    With a ``memory`` none of this holds: a weight may then move while its sum falls.
    ``docs/concepts/theory.md`` says what does.

    At each step, rounding may take half a unit in the last place from the sum while the
    weight moves. The bound includes this: next to nothing in float32, much in bfloat16.

    Args:
      before: the state of an optimizer, with any wrappers, in which each weight has one
        :class:`ScaleByAccumulatedPowerNormState`.
      after: a later state of the same optimizer.
      learning_rate: :math:`\alpha > 0`, a number; of a schedule, its largest value.
      power: :math:`p > 0`; a number, the same as in the optimizer.
      eps: :math:`\varepsilon > 0`, a number; of a schedule, its smallest value, or its
        largest if ``bounded``.
      bounded: the same as in the optimizer; a Python bool.
      include_current: whether the divisor includes the present gradient; a Python bool.
        Pass False for :func:`classp_equation1`. The bounds hold for
        :func:`classp_released` only if ``power`` is 1, since its sum is another.

    Returns:
      A tree like the parameters, of arrays of at least float32, in units of the
      weights. A tensor that a mask has left without a sum has the mask's node instead.

    Raises:
      ValueError: if ``learning_rate``, ``power`` or ``eps`` isn't above 0, not finite
        or not a scalar; if there is no gradient sum, more than one per weight, or a
        factored one, which doesn't say what a single weight has seen; if the states
        differ in structure, or ``after`` is known to be the earlier one.
      TypeError: if ``learning_rate``, ``power`` or ``eps`` isn't a number, or
        ``bounded`` or ``include_current`` isn't a bool.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax import classp, displacement_bound
      >>> solver = classp(learning_rate=0.1)
      >>> before = opt_state = solver.init(jnp.zeros(2))
      >>> for gradient in (jnp.array([1.0, 0.001]), jnp.array([-2.0, -0.001])):
      ...     _, opt_state = solver.update(gradient, opt_state)
      >>> farthest = displacement_bound(before, opt_state, learning_rate=0.1)
      >>> print([f"{bound:.4f}" for bound in farthest])
      ['0.1996', '0.1859']

      The rate at which no weight goes further than 0.01 while the sums grow so:

      >>> farthest = displacement_bound(before, opt_state, learning_rate=1.0)
      >>> print(f"{0.01 / jnp.max(farthest):.4f}")
      0.0050

    References:
      ``docs/concepts/theory.md``, with proofs and the tests of each.
    """
    numbers = dict(learning_rate=learning_rate, power=power, eps=eps)
    for name, number in numbers.items():
        _hyperparameters.check_power(name, number)
    _hyperparameters.check_static_bool("bounded", bounded)
    _hyperparameters.check_static_bool("include_current", include_current)
    root = 1 / float(power)
    peak = _best_growth(root)

    def of_tensor(first: jax.Array, last: jax.Array, steps: jax.Array) -> jax.Array:
        dtype = at_least_float32(first.dtype)
        unit = float(jnp.finfo(first.dtype).eps) / 2
        epsilon, first, last = (jnp.asarray(x, dtype) for x in (eps, first, last))
        growth = (last - first) / (epsilon + first)
        # Of stacked layers each has its own counter.
        steps = jnp.expand_dims(steps, range(steps.ndim, first.ndim)).astype(dtype)
        rounding = unit * last / (epsilon + last)
        if include_current:
            per_step = jnp.log1p(growth) / jnp.maximum(steps, 1)
            share = -jnp.expm1(-jnp.maximum(per_step, peak))
            if root <= 1:
                bound = steps * (share + rounding) ** root
            else:
                bound = share**root * jnp.minimum(per_step / peak, 1)
                bound = steps * (bound + root * rounding)
        else:
            growth = growth + steps * rounding * (1 + growth)
            bound = steps ** max(1 - root, 0) * growth**root
        rate = jnp.asarray(learning_rate, dtype)
        return rate * (epsilon**root if bounded else 1) * bound

    states = [*map(_states.accumulators, (before, after))]
    if len(states[0]) != len(states[1]):
        raise ValueError(
            "before and after must be states of the same optimizer, got"
            f" {len(states[0])} and {len(states[1])} accumulators."
        )
    bounds = [_of_accumulator(of_tensor, *pair) for pair in zip(*states, strict=True)]
    return functools.reduce(_merged, bounds)


def _best_growth(root: float) -> float:
    """Where ``(1 - exp(-x))^root / x`` is largest: 0 for roots up to 1."""
    if root <= 1:
        return 0.0
    growth, last = 2 * root, math.inf
    while growth < last:  # Newton's method, from above, for exp(x) = 1 + root x.
        last = growth
        value = growth - math.log1p(root * growth)
        growth -= value / (1 - root / (1 + root * growth))
    return last


def _of_accumulator(
    of_tensor: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    before: _states.ScaleByAccumulatedPowerNormState,
    after: _states.ScaleByAccumulatedPowerNormState,
) -> Any:
    one, other = (
        (jax.tree.structure(s.grad_sum), [*map(jnp.shape, jax.tree.leaves(s.grad_sum))])
        for s in (before, after)
    )
    if one != other:
        raise ValueError(
            "before and after must be states of the same optimizer, got sums of"
            f" {one} and of {other}."
        )
    nodes = jax.tree.leaves(before.grad_sum, is_leaf=_sums.is_factored)
    if any(map(_sums.is_factored, nodes)):
        raise ValueError(
            "A factored sum bounds no single weight's displacement: those of its row"
            " and its column don't say what it has seen. Use factored=False."
        )
    steps = after.count - before.count
    if not isinstance(steps, jax.core.Tracer) and jnp.any(steps < 0):
        raise ValueError(
            "before must be the earlier state, got one behind"
            f" {before.count} steps, and after behind {after.count}."
        )
    return jax.tree.map(
        lambda first, last: of_tensor(first, last, steps),
        before.grad_sum,
        after.grad_sum,
    )


def _merged(one: Any, other: Any) -> Any:
    """Of two trees, each with what the other has masked out."""
    if isinstance(one, optax.MaskedNode):
        return other
    if isinstance(other, optax.MaskedNode):
        return one
    if jax.tree_util.all_leaves([one]) or jax.tree_util.all_leaves([other]):
        raise ValueError(
            "Two accumulators have a sum of the same weight, so that neither bounds"
            " its displacement alone: give the states of one of them."
        )
    children, structure = jax.tree.flatten(one, is_leaf=lambda node: node is not one)
    others = jax.tree.leaves(other, is_leaf=lambda node: node is not other)
    return jax.tree.unflatten(structure, map(_merged, children, others))
