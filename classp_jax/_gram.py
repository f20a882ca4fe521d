"""Division by what each direction of a tensor has seen, in place of each weight."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from classp_jax import _boxes, _hyperparameters
from classp_jax._arrays import (
    at_least_float32,
    in_dtype_of,
    refuse_complex,
)
from classp_jax._placement import (
    cut_as_before,
    cut_like,
    initial_count,
    replicated_over_mesh_of,
    uncut,
)
from classp_jax._powers import only_finite
from classp_jax._states import ScaleByAccumulatedGramState

_EXACT = jax.lax.Precision.HIGHEST
# Rounding moves an eigenvalue by less than so many units of the largest.
_ROUNDING = 8


def scale_by_accumulated_gram(
    damping: optax.ScalarOrSchedule = 1.0,
    *,
    exponent: float = 1.0,
    refresh_every: int = 10,
    max_dim: int = 1024,
) -> optax.GradientTransformationExtraArgs:
    r"""Slows each direction of a tensor by the gradient that it has seen.

    A matrix's gradient :math:`G`, inputs by outputs, lies in the span of the layer's
    inputs. The sum of its products says how much gradient each direction :math:`v` of
    these has seen, :math:`v^\top L v`, where the sum of :func:`classp` knows weights
    alone:

    .. math::

      L_t = L_{t-1} + G_t G_t^\top, \qquad
      U_t = \left(I + \frac{L_\tau}{\kappa}\right)^{-q} G_t

    with :math:`\tau \le t` the last refresh. A direction without history is left as it
    is, one whose sum is :math:`\kappa` is slowed by :math:`2^q`, and none is ever
    lengthened or turned around: the eigenvalues of the factor lie in :math:`(0, 1]`.

    The rows are the inputs: of a tensor of more axes all but the last are one, as in a
    convolution's kernel. A vector, such as a bias, has one input, which is 1, and its
    sum is one number. Of more rows than ``max_dim``, so many are taken at a time: L is
    then block-diagonal, with blocks of equal size.

    An element that isn't finite, or whose square isn't, counts as a gradient of 0. A
    step whose sum would overflow adds nothing.

    Args:
      damping: :math:`\kappa > 0`, in units of the squared gradient; a number, an
        injected value or a schedule, which is read at each refresh.
      exponent: :math:`q > 0`, a Python number. 1 takes a Cholesky factorization at each
        refresh, others all eigenvectors, which takes some ten times as long.
      refresh_every: steps from one refresh to the next; the first is at the first step.
        Under :func:`jax.vmap`, as of seeds, each step takes the time of one.
      max_dim: the most rows of a block.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`, with the state
      :class:`ScaleByAccumulatedGramState`. Of a matrix of :math:`m` rows and :math:`n`
      columns it takes :math:`8 m^2` bytes, :math:`8 m / n` a weight, and a step
      :math:`4 m^2 n` operations; with blocks of :math:`d` rows :math:`8 d / n` and
      :math:`4 d m n`. A refresh takes some :math:`m^3`. Updates keep the gradient's
      dtype.

    Raises:
      ValueError: if ``damping`` or ``exponent`` is not above 0, not finite or not a
        scalar, ``refresh_every`` or ``max_dim`` below 1; in ``init`` and ``update``, if
        a tensor is complex.
      TypeError: if ``damping`` is neither a number nor a schedule, ``exponent`` not a
        Python number, or ``refresh_every`` or ``max_dim`` no integer.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax import scale_by_accumulated_gram
      >>> scale = scale_by_accumulated_gram(damping=1.0, refresh_every=1)
      >>> gradient = jnp.array([[3.0], [0.0]])  # of an input (1, 0)
      >>> state = scale.init(gradient)
      >>> updates, state = scale.update(gradient, state)
      >>> print(updates[:, 0], state.gram[0, 0])  # 3 / (1 + 9)
      [0.3 0. ] [9. 0.]

    References:
      One-sided full-matrix AdaGrad for :math:`q = 1/2`: Duchi, Hazan and Singer,
      `Adaptive subgradient methods <https://jmlr.org/papers/v12/duchi11a.html>`_,
      2011. Of inputs in place of gradients and for :math:`q = 1`: Zeng et al.,
      `Orthogonal weights modification <https://arxiv.org/abs/1810.01256>`_, 2019.
    """
    _hyperparameters.check_positive("damping", damping)
    _hyperparameters.refuse_injected("exponent", exponent)
    _hyperparameters.check_power("exponent", exponent)
    _hyperparameters.check_positive_int("refresh_every", refresh_every)
    _hyperparameters.check_positive_int("max_dim", max_dim)

    def init_fn(params: optax.Params) -> ScaleByAccumulatedGramState:
        refuse_complex(params)

        def zeros(p: Any) -> jax.Array:
            blocks, rows = _blocks(jnp.shape(p), max_dim)
            return jnp.zeros((blocks, rows, rows), at_least_float32(jnp.result_type(p)))

        gram = jax.tree.map(zeros, _boxes.unbox(params))
        scaling = jax.tree.map(lambda s: s + jnp.eye(s.shape[-1], dtype=s.dtype), gram)
        sums = replicated_over_mesh_of(params, (gram, scaling))
        return ScaleByAccumulatedGramState(initial_count(params), *sums)

    def update_fn(
        updates: optax.Updates,
        state: ScaleByAccumulatedGramState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByAccumulatedGramState]:
        del params, extra_args
        refuse_complex(updates)
        kappa = _hyperparameters.at_step("damping", damping, state.count)
        structure, updates = jax.tree.structure(updates), _boxes.unbox(updates)

        def sum_of(g: Any, s: jax.Array) -> jax.Array:
            return s if g is None else _add_product(s, _as_blocks(g, s))

        def update_of(g: Any, scaling: jax.Array) -> Any:
            if g is None:
                return None
            x = jnp.matmul(scaling, _as_blocks(g, scaling), precision=_EXACT)
            x = jax.lax.collapse(x, 0, 2)[: math.prod(g.shape[:-1])]
            return cut_like(g, in_dtype_of(g, x.reshape(g.shape)))

        def is_none(x: Any) -> bool:
            return x is None

        gram = jax.tree.map(sum_of, updates, state.gram, is_leaf=is_none)
        scaling = jax.lax.cond(
            state.count % refresh_every == 0,
            lambda gram, old: jax.tree.map(
                lambda s, p: _power(s, kappa, float(exponent), p), gram, old
            ),
            lambda gram, old: old,
            gram,
            state.scaling,
        )
        gram, scaling = cut_as_before((gram, scaling), (state.gram, state.scaling))
        updates = jax.tree.map(update_of, updates, scaling, is_leaf=is_none)
        updates = jax.tree.unflatten(structure, jax.tree.leaves(updates))
        count = optax.safe_increment(state.count)
        return updates, ScaleByAccumulatedGramState(count, gram, scaling)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _blocks(shape: tuple[int, ...], max_dim: int) -> tuple[int, int]:
    """How many blocks a tensor's rows make, and of how many rows each."""
    rows = math.prod(shape[:-1])
    blocks = max(1, -(-rows // max_dim))
    return blocks, -(-rows // blocks)


def _as_blocks(g: jax.Array, like: jax.Array) -> jax.Array:
    """A gradient as (blocks, rows, columns), finite and padded with rows of 0."""
    blocks, rows, _ = like.shape
    columns = g.shape[-1] if g.ndim else 1
    x = uncut(g).reshape(math.prod(g.shape[:-1]), columns).astype(like.dtype)
    x = only_finite(x, 2.0)
    x = jnp.pad(x, ((0, blocks * rows - x.shape[0]), (0, 0)))
    return x.reshape(blocks, rows, columns)


def _add_product(s: jax.Array, x: jax.Array) -> jax.Array:
    """The sum with a gradient's products, where that is finite."""
    total = s + jnp.matmul(x, jnp.matrix_transpose(x), precision=_EXACT)
    # No element is above the largest on the diagonal.
    trace = jnp.trace(total, axis1=-2, axis2=-1)
    return jnp.where(jnp.isfinite(trace)[:, None, None], total, s)


def _power(s: jax.Array, kappa: Any, exponent: float, before: jax.Array) -> jax.Array:
    """``(I + s / kappa)^-exponent``; what it was before where that has no digits."""
    eye = jnp.eye(s.shape[-1], dtype=s.dtype)
    if exponent == 1:
        # Where rounding would make an eigenvalue negative, a little more than kappa.
        unit = float(jnp.finfo(s.dtype).eps)
        trace = jnp.trace(s, axis1=-2, axis2=-1)[:, None, None]
        kappa = jnp.asarray(kappa, s.dtype)
        factor = jnp.linalg.cholesky(
            s / kappa + jnp.maximum(1, _ROUNDING * unit * (trace / kappa)) * eye
        )
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
