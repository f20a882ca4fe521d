"""What the arithmetic needs to know of arrays: dtypes, their limits, a select."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax


def at_least_float32(dtype: jax.typing.DTypeLike) -> Any:
    """The dtype to compute in: float32 for the shorter ones."""
    if jnp.issubdtype(dtype, jnp.floating):  # Also those that promote to no other.
        return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)
    return jnp.promote_types(dtype, jnp.float32)


def in_dtype_of(g: jax.Array, u: jax.Array) -> jax.Array:
    """An update in its gradient's dtype, or as it is if that has no fractions."""
    return u.astype(g.dtype) if jnp.issubdtype(g.dtype, jnp.floating) else u


def largest_of(dtype: jax.typing.DTypeLike) -> float:
    """The largest finite number of a dtype, where a sum saturates."""
    return float(jnp.finfo(dtype).max)


def smallest_of(dtype: jax.typing.DTypeLike) -> float:
    """The smallest number above 0 that a dtype holds in full."""
    return float(jnp.finfo(dtype).tiny)


def select(mask: jax.Array, x: jax.Array, otherwise: jax.typing.ArrayLike) -> jax.Array:
    """``jnp.where``, without the function call that it adds to the program."""
    return jax.lax.select(mask, x, jnp.full_like(x, otherwise))


def is_key(x: jax.typing.ArrayLike) -> bool:
    """Whether an array is of keys that :func:`jax.random.key` makes."""
    return jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key)


def forget(x: jax.Array, memory: Any) -> jax.Array:
    """What a step leaves of a sum: ``(1 - 1 / memory) x``; all of it if that is None.

    A memory that isn't known yet may be anything: what isn't above 1 counts as 1.
    """
    if memory is None:
        return x
    steps = jnp.asarray(memory, x.dtype)
    # That factor itself has few digits of a long memory.
    return x - x * (1 / jnp.where(steps > 1, steps, 1))


def refuse_complex(params: optax.Params) -> None:
    """Raises a ``ValueError`` that names a complex leaf."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jnp.iscomplexobj(leaf):
            raise ValueError(
                "Parameters and gradients must be real;"
                f" {jax.tree_util.keystr(path) or 'this one'} is complex"
                f" ({jnp.result_type(leaf)})."
            )
