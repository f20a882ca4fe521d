"""The largest eigenvalues of a sum of products, from a sketch that is itself a sum.

Tropp, Yurtsever, Udell and Cevher, Fixed-rank approximation of a positive-semidefinite
matrix from streaming data, 2017: of the sum L its product with a fixed random matrix of
few columns is enough.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_EXACT = jax.lax.Precision.HIGHEST


class GramSketch(NamedTuple):
    r"""What is kept of a sum :math:`L` of (m, m) with ``rank=k``.

    Attributes:
      products: :math:`L \Omega` with a fixed :math:`\Omega` of signs; shape (m, k).
      trace: that of :math:`L`; shape ``()``.
    """

    products: jax.Array
    trace: jax.Array


class SketchedScaling(NamedTuple):
    r"""The factor :math:`r I + V \mathrm{diag}(f) V^\top`.

    Attributes:
      basis: :math:`V`, the eigenvectors that the sketch tells; shape (m, k).
      excess: :math:`f \le 0`; shape (k,).
      rest: :math:`r`, of all other directions alike; shape ``()``.
    """

    basis: jax.Array
    excess: jax.Array
    rest: jax.Array


def zeros(rows: int, rank: int, dtype: Any) -> GramSketch:
    """A sum without any gradient in it."""
    return GramSketch(jnp.zeros((rows, rank), dtype), jnp.zeros([], dtype))


def identity(sketch: GramSketch) -> SketchedScaling:
    """The factor of a sum without any gradient in it."""
    basis = jnp.zeros_like(sketch.products)
    return SketchedScaling(basis, jnp.zeros_like(basis[0]), jnp.ones_like(sketch.trace))


def add(sketch: GramSketch, x: jax.Array) -> GramSketch:
    """The sketch with the products of a gradient (m, n), where these are finite."""
    test = _test_matrix(sketch)
    onto = jnp.matmul(x.T, test, precision=_EXACT)
    new = GramSketch(
        sketch.products + jnp.matmul(x, onto, precision=_EXACT),
        sketch.trace + jnp.sum(jnp.square(x)),
    )
    is_finite = jnp.isfinite(new.trace) & jnp.all(jnp.isfinite(new.products))
    return GramSketch(
        *(jnp.where(is_finite, *p) for p in zip(new, sketch, strict=True))
    )


def power(
    sketch: GramSketch, kappa: Any, exponent: float, before: SketchedScaling
) -> SketchedScaling:
    """``(I + L / kappa)^-exponent``; what it was before where that has no digits.

    What of the trace the eigenvalues leave is taken to lie evenly in all others.
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
    half = jax.lax.linalg.triangular_solve(
        factor, shifted, left_side=False, lower=True, transpose_a=True
    )
    basis, roots, _ = jnp.linalg.svd(half, full_matrices=False)
    values = jnp.maximum(jnp.square(roots) - shift, 0)
    left = jnp.maximum(sketch.trace - jnp.sum(values), 0) / max(rows - rank, 1)
    rest = jnp.power(1 + left / kappa, -exponent)
    gains = jnp.power(1 + values / kappa, -exponent)
    # A direction has seen what is spread over all, at least.
    new = SketchedScaling(basis, jnp.minimum(gains - rest, 0), rest)
    is_sound = jnp.all(jnp.stack([jnp.all(jnp.isfinite(part)) for part in new]))
    return SketchedScaling(
        *(jnp.where(is_sound, *p) for p in zip(new, before, strict=True))
    )


def apply(scaling: SketchedScaling, x: jax.Array) -> jax.Array:
    """The factor times a gradient (m, n)."""
    onto = jnp.matmul(scaling.basis.T, x, precision=_EXACT)
    along = scaling.excess[:, None] * onto
    return scaling.rest * x + jnp.matmul(scaling.basis, along, precision=_EXACT)


def _select(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), new, old)


def _test_matrix(sketch: GramSketch) -> jax.Array:
    """The same signs at every step."""
    shape, dtype = sketch.products.shape, sketch.products.dtype
    signs: jax.Array = jax.random.rademacher(jax.random.key(0), shape, dtype)
    return signs
