"""Powers of gradients and roots of their sums, finite wherever that can be."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from classp_jax._arrays import largest_of, select


def only_finite(
    g: jax.Array, power: jax.typing.ArrayLike, infinity: jax.typing.ArrayLike = jnp.inf
) -> jax.Array:
    """0 for what isn't finite, or whose power isn't."""
    finite = jnp.abs(g) < jnp.asarray(infinity, g.dtype)
    if not (isinstance(power, float) and power <= 1):
        finite &= jnp.abs(g) < _largest_base(g.dtype, power)
    return select(finite, g, 0)


def raise_to(g: jax.Array, power: jax.typing.ArrayLike) -> jax.Array:
    """``|g|^power``."""
    if isinstance(power, float):
        if power == 1:
            return jnp.abs(g)
        if power == 2:
            return jnp.square(g)
        if power > 1:
            return jnp.power(jnp.abs(g), power)
    # Its derivative at 0 may be infinite, times that of abs NaN.
    is_zero = g == 0
    base = jnp.where(is_zero, 1, jnp.abs(g))
    return jnp.where(is_zero, 0, jnp.power(base, jnp.asarray(power, g.dtype)))


def _largest_base(dtype: jax.typing.DTypeLike, power: Any) -> Any:
    """Up to which numbers have a finite power, but for rounding."""
    largest = largest_of(dtype)
    if isinstance(power, float):
        return math.inf if power <= 1 else largest ** (1 / power)
    base = jnp.asarray(largest, dtype) ** (1 / jnp.maximum(power, 1).astype(dtype))
    return jnp.where(power <= 1, jnp.inf, base)


def _over_root(g: jax.Array, x: jax.Array, power: Any) -> jax.Array:
    if isinstance(power, float) and power == 1:
        return g / x
    if isinstance(power, float) and power == 2:
        return g * jax.lax.rsqrt(x)
    return select(g != 0, g * jnp.power(x, -1 / power), 0)  # Also times infinity.


_by_static_power = jax.custom_jvp(_over_root, nondiff_argnums=(2,))
_by_traced_power = jax.custom_jvp(_over_root)


def divide_by_root(g: jax.Array, x: jax.Array, power: Any) -> jax.Array:
    """``g / x^(1/power)``, 0 where g is; its derivatives don't overflow at small x."""
    if isinstance(power, float):
        update: jax.Array = _by_static_power(g, x, power)
    else:
        update = _by_traced_power(g, x, jnp.asarray(power, x.dtype))
    return update


def _update_and_change(
    g: jax.Array, x: jax.Array, power: Any, g_dot: jax.Array, x_dot: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # u times 1 / x: x^2 may underflow, and of (g / x) / x XLA makes g / x^2.
    largest = largest_of(x.dtype)
    u = divide_by_root(g, x, power)
    # Finite, as a closed gate multiplies them by 0.
    by_g = jnp.minimum(divide_by_root(jnp.ones_like(g), x, power), largest)
    by_x = jnp.clip(u * divide_by_root(jnp.ones_like(x), x, 1.0), -largest, largest)
    return u, g_dot * by_g - x_dot * by_x / power


@_by_static_power.defjvp
def _by_static_power_jvp(power: float, primals: Any, tangents: Any) -> Any:
    g, x = primals
    return _update_and_change(g, x, power, *tangents)


@_by_traced_power.defjvp
def _by_traced_power_jvp(primals: Any, tangents: Any) -> Any:
    *_, x, power = primals
    *others, power_dot = tangents
    largest = largest_of(x.dtype)
    u, u_dot = _update_and_change(*primals, *others)
    by_power = jnp.clip(u * jnp.log(x) / jnp.square(power), -largest, largest)
    return u, u_dot + by_power * power_dot


@jax.custom_jvp
def divide(x: jax.Array, y: jax.Array) -> jax.Array:
    """``x / y``; its derivatives don't overflow where the square of y underflows."""
    return x / y


@divide.defjvp
def _divide_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    x, y = primals
    x_dot, y_dot = tangents
    u, bound = divide(x, y), largest_of(y.dtype)
    # Finite, as they may meet tangents of 0, and tangents first for the same reason.
    inverse = jnp.minimum(divide(jnp.ones_like(y), y), bound)
    return u, x_dot * inverse - y_dot * inverse * jnp.clip(u, -bound, bound)
