"""The largest eigenvalues of a sum of products, from a sketch that is itself a sum.

Tropp, Yurtsever, Udell and Cevher, Fixed-rank approximation of a positive-semidefinite
matrix from streaming data, 2017: of the sum L its product with a fixed random matrix of
few columns is enough.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_EXACT = jax.lax.Precision.HIGHEST
# Units in the last place of the trace by which an eigenvalue may be off.
_ROUNDING = 8


class GramSketch(NamedTuple):
    r"""A sketch of a sum :math:`L` of shape (m, m), kept with ``rank=k``.

    Attributes:
      products: :math:`L \Omega` with a fixed random :math:`\Omega`; shape (m, k).
      trace: the trace of :math:`L`; shape ``()``.
    """

    products: jax.Array
    trace: jax.Array


class SketchedScaling(NamedTuple):
    r"""The factor :math:`r (I - B B^\top)`.

    Attributes:
      basis: :math:`B`, for the directions that the sketch knows; shape (m, k).
      rest: :math:`r`, the factor of all other directions; shape ``()``.
    """

    basis: jax.Array
    rest: jax.Array


def zeros(rows: int, rank: int, dtype: Any) -> GramSketch:
    """A sum without any gradient in it."""
    return GramSketch(jnp.zeros((rows, rank), dtype), jnp.zeros([], dtype))


def identity(sketch: GramSketch) -> SketchedScaling:
    """The factor of a sum without any gradient in it."""
    return SketchedScaling(jnp.zeros_like(sketch.products), jnp.ones_like(sketch.trace))


def add(sketch: GramSketch, x: jax.Array) -> GramSketch:
    """The sketch with the products of a gradient (m, n), where these are finite."""
    test = _test_matrix(sketch)
    onto = jnp.matmul(test.T, x, precision=_EXACT)
    new = GramSketch(
        sketch.products + jnp.matmul(x, onto.T, precision=_EXACT),
        sketch.trace + jnp.sum(jnp.square(x)),
    )
    # No product is above the trace times the length of a column of the test matrix.
    is_finite = jnp.isfinite(2 * math.sqrt(len(x)) * new.trace)
    return GramSketch(
        *(jnp.where(is_finite, *p) for p in zip(new, sketch, strict=True))
    )


def of_sum(total: jax.Array, like: GramSketch) -> GramSketch:
    """What is kept of a sum that is known in full, (m, m)."""
    products = jnp.matmul(total, _test_matrix(like), precision=_EXACT)
    return GramSketch(products, jnp.trace(total))


def power(
    sketch: GramSketch, kappa: Any, exponent: float, before: SketchedScaling
) -> SketchedScaling:
    r"""``(I + L / kappa)^-exponent``; what it was before where that has no digits.

    All directions but those of the known eigenvalues have the mean of the factors that
    the others would have, were they a power law :math:`\lambda_i = \lambda_j
    (i / j)^{-a}`: of ranks :math:`i > j = k / 4`, as a sketch has the lesser ones too
    small, with the :math:`a` for which :math:`\sum_{i > j} \lambda_i`, as an integral
    :math:`j \lambda_j / (a - 1)`, is what the first j leave of the trace.
    """
    dtype = sketch.products.dtype
    test = _test_matrix(sketch)
    rows, rank = test.shape
    unit = float(jnp.finfo(dtype).eps)
    kappa = jnp.asarray(kappa, dtype)
    # A little of the identity, so that the factorization has digits.
    shift = unit * jnp.sqrt(jnp.asarray(rows, dtype)) * sketch.trace
    shift = jnp.maximum(shift, float(jnp.finfo(dtype).tiny))
    shifted = sketch.products + shift * test
    core = jnp.matmul(test.T, shifted, precision=_EXACT)
    factor = jnp.linalg.cholesky((core + core.T) / 2)
    # An inverse of (k, k), as rows on many devices can be multiplied but not solved.
    inverse = jax.lax.linalg.triangular_solve(
        factor, jnp.eye(rank, dtype=dtype), left_side=True, lower=True
    )
    half = jnp.matmul(shifted, inverse.T, precision=_EXACT)
    # The sum's largest eigenvalues, and its eigenvectors times their square roots.
    squared, rotation = jnp.linalg.eigh(jnp.matmul(half.T, half, precision=_EXACT))
    values = jnp.maximum(squared - shift, 0)
    log_rest = _log_rest(values, sketch.trace, rows, kappa, exponent)
    # By how much more a direction is slowed than the rest, if it is.
    slower = jnp.maximum(exponent * jnp.log1p(values / kappa) + log_rest, 0)
    # Rounding may make an eigenvector longer, and must not turn a step around.
    longest = squared + _ROUNDING * unit * jnp.sum(jnp.maximum(squared, 0))
    rotation = rotation * jnp.sqrt(-jnp.expm1(-slower) / longest)
    new = SketchedScaling(
        jnp.matmul(half, rotation, precision=_EXACT),
        jnp.exp(log_rest),
    )
    # Where an element of half isn't finite, no eigenvector is.
    is_sound = jnp.all(jnp.isfinite(rotation)) & jnp.isfinite(new.rest)
    return SketchedScaling(
        *(jnp.where(is_sound, *p) for p in zip(new, before, strict=True))
    )


def _log_rest(
    values: jax.Array, trace: jax.Array, rows: int, kappa: jax.Array, exponent: float
) -> jax.Array:
    """The logarithm of the other directions' factor, from the ascending values."""
    rank = len(values)
    j = max(rank // 4, 1)
    least = values[rank - j]
    left = trace - jnp.sum(values[rank - j :])
    decay = 1 + j * least / jnp.maximum(left, float(jnp.finfo(values.dtype).tiny))
    ranks = jnp.arange(rank + 1, rows + 1, dtype=values.dtype)
    others = least * (ranks / j) ** -decay
    log_factors = -exponent * jnp.log1p(others / kappa)
    return jax.nn.logsumexp(log_factors) - math.log(len(ranks))


def apply(scaling: SketchedScaling, x: jax.Array) -> jax.Array:
    """The factor times a gradient (m, n)."""
    onto = jnp.matmul(scaling.basis.T, x, precision=_EXACT)
    return scaling.rest * (x - jnp.matmul(scaling.basis, onto, precision=_EXACT))


def _test_matrix(sketch: GramSketch) -> jax.Array:
    """Numbers within (-1, 1), the same under every flag of JAX and on every device.

    A hash of each element's index (the finalizer of MurmurHash3): to draw them anew at
    every step by :mod:`jax.random` took longer than the products did.
    """
    shape, dtype = sketch.products.shape, sketch.products.dtype
    row, column = (jax.lax.broadcasted_iota(jnp.uint32, shape, i) for i in (0, 1))
    index = row * shape[1] + column + 1
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        index = (index ^ (index >> shift)) * jnp.uint32(factor)
    # 24 bits, as float32 has.
    return ((index ^ (index >> 16)) >> 8).astype(dtype) / 2.0**23 - 1
