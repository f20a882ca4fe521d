"""Division by the root of a sum of powers, the general form of the public part."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from classp_jax import _boxes, _hyperparameters, _sums
from classp_jax._arrays import (
    at_least_float32,
    forget,
    in_dtype_of,
    largest_of,
    refuse_complex,
    smallest_of,
)
from classp_jax._placement import initial_count
from classp_jax._powers import divide_by_root, only_finite, raise_to
from classp_jax._states import ScaleByAccumulatedPowerNormState, sums_of, with_sums


def accumulate_and_scale(
    sum_power: float | jax.Array,
    root_power: float | jax.Array,
    eps: optax.ScalarOrSchedule,
    include_current: bool,
    factored: bool,
    accumulator_dtype: jax.typing.DTypeLike | None,
    keeps_nonfinite: bool = False,
    bounded: bool = False,
    memory: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Divides by the ``root_power``-th root of a sum of ``sum_power``-th powers.

    Its ``update`` takes ``bounds``, as :func:`mask_updates` hands them on, for sums
    that only take in what passes. An element that isn't finite, or whose power
    isn't, counts as a gradient of 0, unless ``keeps_nonfinite``. Bounded, the divisor
    is in units of what it is without history. A memory is the steps that a sum keeps.
    """
    _hyperparameters.check_positive("eps", eps)
    _hyperparameters.check_memory("memory", memory)
    _hyperparameters.check_static_bool("factored", factored)
    _hyperparameters.check_static_bool("bounded", bounded)
    _hyperparameters.check_floating_dtype("accumulator_dtype", accumulator_dtype)
    sum_power, root_power = _static(sum_power), _static(root_power)

    def init_fn(params: optax.Params) -> ScaleByAccumulatedPowerNormState:
        refuse_complex(params)

        first = next(iter(jax.tree.leaves(params)), None)

        def zeros(p: jax.typing.ArrayLike) -> _sums.Sum:
            dtype = accumulator_dtype
            if dtype is None:
                dtype = at_least_float32(jnp.result_type(p))
            return _sums.zeros(p, dtype, factored, first)

        sums = _sums.in_boxes(jax.tree.map(zeros, params))
        return ScaleByAccumulatedPowerNormState(initial_count(params), sums)

    keeps = ("keeps_nonfinite",)
    accumulate = _jitted(_sums.accumulate, keeps, power=sum_power)
    scale = _jitted(_scale, (*keeps, "bounded"), power=sum_power, root=root_power)

    def update_fn(
        updates: optax.Updates,
        state: ScaleByAccumulatedPowerNormState,
        params: optax.Params | None = None,
        *,
        bounds: optax.Updates | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByAccumulatedPowerNormState]:
        del params, extra_args
        refuse_complex(updates)
        epsilon = _hyperparameters.at_step("eps", eps, state.count)
        kept = _hyperparameters.at_step("memory", memory, state.count)
        structure, updates = jax.tree.structure(updates), _boxes.unbox(updates)
        if bounds is None:
            bounds = jax.tree.map(lambda g: None, updates)
        # Two loops over the weights that share an array would have it stored. Scalars
        # from behind a barrier are others to the compiler, so that each loop computes
        # its own, which is faster.
        hidden = (_boxes.unbox(bounds), jnp.inf)
        bounds, infinity = jax.lax.optimization_barrier(hidden)

        # A None among the gradients is a weight without one: Algorithm 1, line 7.
        def sum_of(g: Any, s: _sums.Sum, bound: Any) -> _sums.Sum:
            if g is None:
                return s
            after: _sums.Sum = accumulate(
                g,
                s,
                bound,
                infinity,
                kept,
                power=sum_power,
                keeps_nonfinite=keeps_nonfinite,
            )
            return after

        def update_of(g: Any, before: _sums.Sum, after: _sums.Sum) -> Any:
            if g is None:
                return None
            return scale(
                g,
                before,
                after if include_current else None,
                epsilon,
                kept,
                power=sum_power,
                root=root_power,
                keeps_nonfinite=keeps_nonfinite,
                bounded=bounded,
            )

        def is_none(x: Any) -> bool:
            return x is None

        before = sums_of(state)
        after = jax.tree.map(sum_of, updates, before, bounds, is_leaf=is_none)
        updates = jax.tree.map(update_of, updates, before, after, is_leaf=is_none)
        updates = jax.tree.unflatten(structure, jax.tree.leaves(updates))
        count = optax.safe_increment(state.count)
        return updates, with_sums(state._replace(count=count), after)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _scale(
    g: jax.Array,
    before: _sums.Sum,
    after: _sums.Sum | None,
    epsilon: jax.typing.ArrayLike,
    memory: Any,
    power: Any,
    root: Any,
    keeps_nonfinite: bool,
    bounded: bool,
) -> jax.Array:
    """Algorithm 1, line 14, of a tensor, less the learning rate.

    Without ``after`` the divisor has the earlier gradients only, as in Equation 1.
    """
    dtype = _sums.computed_in(g, before)
    gradient = g.astype(dtype)
    if not keeps_nonfinite:
        gradient = only_finite(gradient, power)
    if after is None:
        total = _sums.of_each_weight(before, dtype)
    elif isinstance(after, jax.Array) and after.dtype == dtype:
        total = after
    else:  # The present is known better than the accumulator can hold it.
        left = jax.tree.map(lambda x: forget(x.astype(dtype), memory), before)
        total = _sums.of_each_weight(left, dtype)
        total = total + raise_to(gradient, power)
        if not keeps_nonfinite:
            total = jnp.minimum(total, largest_of(dtype))
    # An eps that isn't known yet may be 0.
    eps, smallest = jnp.asarray(epsilon, dtype), smallest_of(dtype)
    if bounded:
        x = 1 + total / jnp.maximum(eps, smallest)
    else:
        x = jnp.maximum(eps + total, smallest)
    return in_dtype_of(g, divide_by_root(gradient, x, root))


@functools.cache
def _jit_with_static(function: Callable[..., Any], names: tuple[str, ...]) -> Any:
    return jax.jit(function, static_argnames=names)


def _jitted(
    function: Callable[..., Any], static: tuple[str, ...], **powers: Any
) -> Any:
    """A compiled function, to which powers that are Python numbers are static, too."""
    numbers = tuple(name for name, power in powers.items() if isinstance(power, float))
    return _jit_with_static(function, (*static, *numbers))


def _static(power: float | jax.Array) -> float | jax.Array:
    """A number as Python's own, not NumPy's; an injected value as it is."""
    return power if isinstance(power, jax.Array) else float(power)
