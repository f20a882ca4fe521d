"""A sum of products in full, or of so many rows at a time: blocks on its diagonal."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

_EXACT = jax.lax.Precision.HIGHEST
# From so many units in the last place of the trace on, Cholesky's has digits.
_ROUNDING = 8


def zeros(rows: int, max_dim: int, dtype: Any) -> jax.Array:
    """A sum without any gradient in it; (blocks, d, d)."""
    blocks = max(1, -(-rows // max_dim))
    height = -(-rows // blocks)
    return jnp.zeros((blocks, height, height), dtype)


def identity(s: jax.Array) -> jax.Array:
    """The factor of a sum without any gradient in it."""
    return s + jnp.eye(s.shape[-1], dtype=s.dtype)


def apply(scaling: jax.Array, g: jax.Array) -> jax.Array:
    """The factor times a gradient (m, n)."""
    x = jnp.matmul(scaling, _as_blocks(g, scaling), precision=_EXACT)
    return jax.lax.collapse(x, 0, 2)[: len(g)]


def add(s: jax.Array, g: jax.Array) -> jax.Array:
    """The sum with a gradient's products, where that is finite; of (m, n)."""
    x = _as_blocks(g, s)
    total = s + jnp.matmul(x, jnp.matrix_transpose(x), precision=_EXACT)
    # No element is above the largest on the diagonal.
    trace = jnp.trace(total, axis1=-2, axis2=-1)
    return jnp.where(jnp.isfinite(trace)[:, None, None], total, s)


def power(s: jax.Array, kappa: Any, exponent: float, before: jax.Array) -> jax.Array:
    """``(I + s / kappa)^-exponent``; what it was before where that has no digits."""
    eye = jnp.eye(s.shape[-1], dtype=s.dtype)
    if exponent == 1:
        # A little more than the identity, as rounding may make eigenvalues less.
        kappa = jnp.asarray(kappa, s.dtype)
        rounding = float(jnp.finfo(s.dtype).eps) * jnp.trace(s, axis1=-2, axis2=-1)
        least = jnp.maximum(1 + rounding / kappa, _ROUNDING * rounding / kappa)
        factor = jnp.linalg.cholesky(s / kappa + least[:, None, None] * eye)
        half = jax.lax.linalg.triangular_solve(
            factor, jnp.broadcast_to(eye, s.shape), left_side=True, lower=True
        )
        power = jnp.matmul(jnp.matrix_transpose(half), half, precision=_EXACT)
    else:
        values, vectors = jnp.linalg.eigh(s)
        scaled = jnp.maximum(values, 0) / jnp.asarray(kappa, s.dtype)
        scaled = vectors * jnp.power(1 + scaled, -exponent)[:, None, :]
        power = jnp.matmul(scaled, jnp.matrix_transpose(vectors), precision=_EXACT)
    is_sound = jnp.all(jnp.isfinite(power), (-2, -1), keepdims=True)
    return jnp.where(is_sound, power, before)


def _as_blocks(g: jax.Array, like: jax.Array) -> jax.Array:
    """A gradient (m, n) as (blocks, d, n), padded with rows of 0."""
    blocks, rows, _ = like.shape
    x = jnp.pad(g, ((0, blocks * rows - len(g)), (0, 0)))
    return x.reshape(blocks, rows, g.shape[1])
