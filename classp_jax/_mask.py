"""Which updates pass a threshold, and the laying of that mask over others."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from classp_jax import _hyperparameters, _sums
from classp_jax._arrays import at_least_float32, refuse_complex, select
from classp_jax._placement import initial_count
from classp_jax._states import ThresholdMaskState


def mask_updates(
    bound_of: Callable[[jax.Array, Any], Any],
    is_open: Callable[[jax.Array, Any], jax.Array],
    threshold: optax.ScalarOrSchedule,
    inner: optax.GradientTransformation | None = None,
    bounds_for_inner: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Lays the mask ``is_open(update, bound)`` over the updates of ``inner``.

    ``bound_of(update, threshold)`` is a scalar for each tensor, or None. With
    ``bounds_for_inner`` the transformation within is given them as the extra argument
    ``bounds``, so that its sum takes in what passes and nothing else.
    """
    _hyperparameters.check_not_negative("threshold", threshold)
    inner = optax.with_extra_args_support(inner or optax.identity())

    def init_fn(params: optax.Params) -> ThresholdMaskState:
        refuse_complex(params)
        return ThresholdMaskState(initial_count(params), inner.init(params))

    def update_fn(
        updates: optax.Updates,
        state: ThresholdMaskState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ThresholdMaskState]:
        refuse_complex(updates)
        theta = _hyperparameters.at_step("threshold", threshold, state.count)
        grads = jax.tree.map(jnp.asarray, updates)
        bounds = jax.tree.map(lambda g: bound_of(g, theta), grads)
        if bounds_for_inner:
            extra_args = extra_args | dict(bounds=bounds)
        updates, inner_state = inner.update(
            updates, state.inner_state, params, **extra_args
        )
        updates = jax.tree.map(
            lambda g, bound, u: _masked(is_open, g, bound, u), grads, bounds, updates
        )
        count = optax.safe_increment(state.count)
        return updates, ThresholdMaskState(count, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def absolute_or_relative(relative: bool) -> Callable[[jax.Array, Any], Any]:
    """What the squares of a tensor must exceed at a threshold; None where that is 0.

    At a threshold of 0 the square must not decide: it underflows where the gradient
    doesn't. One known at run time alone is -1 then, which every square exceeds.
    """
    _hyperparameters.check_static_bool("relative", relative)

    def bound_of(g: jax.Array, theta: Any) -> Any:
        if isinstance(theta, float) and theta == 0:
            return None
        dtype = at_least_float32(g.dtype)
        bound = theta = jnp.asarray(theta, dtype)
        if relative:
            bound = theta * _mean_square(g.astype(dtype))
        return jnp.where(theta == 0, -1, bound)

    return bound_of


def passes(g: jax.Array, bound: jax.Array | None) -> jax.Array:
    """Which elements of an update are finite and have a square above a bound."""
    g = g.astype(at_least_float32(g.dtype))
    finite = jnp.abs(g) < jnp.inf
    return finite if bound is None else finite & (jnp.square(g) > bound)


def any_passes(g: jax.Array, bound: jax.Array | None) -> jax.Array:
    return jnp.isfinite(g) & jnp.any(passes(g, bound))


# Here and below, one trace serves all tensors of a shape and dtype.
@functools.partial(jax.jit, static_argnums=0)
def _masked(
    is_open: Callable[[jax.Array, Any], jax.Array],
    g: jax.Array,
    bound: Any,
    u: jax.Array,
) -> jax.Array:
    return select(is_open(g, bound), u, 0)


def _mean_square(x: jax.Array) -> jax.Array:
    """The mean square of a tensor's finite elements."""

    def masked(x: jax.Array) -> jax.Array:
        finite = jnp.abs(x) < jnp.inf
        total = jnp.sum(jnp.square(x), where=finite)
        return total / jnp.maximum(jnp.sum(finite, dtype=x.dtype), 1)

    def plain_first(x: jax.Array) -> jax.Array:
        total = jnp.vdot(x, x)
        mean: jax.Array = jax.lax.cond(
            jnp.isfinite(total), lambda: total / x.size, lambda: masked(x)
        )
        return mean

    # XLA's CPU backend takes three times as long for a masked sum as for a plain one;
    # others read the tensor once for both.
    if x.size <= _sums.BLOCK or jax.device_count() > 1:
        return masked(x)
    mean: jax.Array = jax.lax.platform_dependent(x, cpu=plain_first, default=masked)
    return mean
