"""Slows each direction of a tensor by its own gradient sum."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from classp_jax import _boxes, _gram_blocks, _gram_sketch, _hyperparameters
from classp_jax._arrays import (
    at_least_float32,
    forget,
    in_dtype_of,
    refuse_complex,
)
from classp_jax._placement import (
    along_rows_of,
    cut_as_before,
    cut_like,
    initial_count,
    uncut,
)
from classp_jax._powers import only_finite
from classp_jax._states import ScaleByAccumulatedGramState


def scale_by_accumulated_gram(
    damping: optax.ScalarOrSchedule = 1.0,
    *,
    exponent: float = 1.0,
    refresh_every: int | None = 10,
    max_dim: int = 1024,
    rank: int | None = 64,
    memory: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Slows each direction of a tensor by its own gradient sum.

    The gradient :math:`G` of a matrix, inputs by outputs, lies in the span of the
    layer's inputs. The sum :math:`L` of its products says how much gradient each
    direction :math:`v` of the inputs has seen: :math:`v^\top L v`. The sum of
    :func:`classp` knows this only per weight.

    .. math::

      L_t = L_{t-1} + G_t G_t^\top, \qquad
      U_t = \left(I + \frac{L_\tau}{\kappa}\right)^{-q} G_t

    Here :math:`\tau \le t` is the step of the last refresh. A direction without history
    isn't slowed. One whose sum is :math:`\kappa` is divided by :math:`2^q`. None is
    ever lengthened or reversed: the eigenvalues of the factor lie in :math:`(0, 1]`.

    The rows are the inputs. In a tensor of more axes, such as a convolution's kernel,
    all axes but the last are inputs. A vector, such as a bias, has one input, which is
    1, and its sum is one number.

    If a matrix has more rows than ``rank``, only that many of the largest eigenvalues
    are known. They come from a sketch :math:`L \Omega` with a fixed random
    :math:`\Omega`, which is a sum as well. The rest of the trace is assumed to fall off
    as a power of the rank, and all other directions get the mean factor of that.
    ``rank=None`` keeps each :math:`L` in full. A matrix of more than ``max_dim`` rows
    then has a block-diagonal :math:`L`, with blocks of equal size.

    With a ``memory`` of :math:`N` steps the sum fades at every step before it adds,
    also if a mask or a gate keeps the gradient out, but not if the gradient is None:

    .. math::

      L_t = \left(1 - \frac{1}{N}\right) L_{t-1} + G_t G_t^\top

    The factor is refreshed at the first step, every ``refresh_every`` steps, and at any
    step whose ``update`` gets the extra argument ``refresh=True``, a bool or an array
    of one. With ``refresh_every=None`` and ``refresh=True`` at the first step of each
    task, a task is slowed only by that step and by what earlier tasks have seen.

    An element that isn't finite, or whose square isn't, counts as a gradient of 0. A
    step whose sum would overflow adds nothing.

    On several devices, the m rows of a sketch are sharded like the first axis of their
    tensor. So are blocks, if they divide evenly; any other sum is replicated. If a
    device has (m', n') of a matrix's gradient (m, n), devices exchange only products.
    Sharded along the outputs, they exchange what is added to the sum: (m', k), or the
    blocks. Sharded along the inputs, they exchange two products of (k, n') for a sketch
    and two of (k, k) at a refresh, and nothing for blocks that divide evenly. A
    convolution's kernel that is sharded along its outputs is like a matrix. Other
    tensors may be gathered. Over explicit mesh axes all are, and sums are replicated.

    Args:
      damping: :math:`\kappa > 0`, in units of the squared gradient; a number, an
        injected value or a schedule, which is read at each refresh.
      exponent: :math:`q > 0`, a Python number. With ``rank=None``, 1 takes a Cholesky
        factorization per refresh; others take all eigenvectors, some ten times as long.
      refresh_every: the steps from one refresh to the next; None for only the first one
        and those called for. Under :func:`jax.vmap`, such as over seeds, every step
        takes the time of a refresh.
      max_dim: the largest number of rows of a block, with ``rank=None``.
      rank: :math:`k`, the number of eigenvalues to know; None for all of them.
      memory: :math:`N > 1`, the steps in which a direction without gradients falls to
        1/e; a number, an injected value or a schedule. With None or infinity it never
        fades.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`, with the state
      :class:`ScaleByAccumulatedGramState`. For a matrix of :math:`m` rows and :math:`n`
      columns it takes :math:`8 k m` bytes, :math:`8 k / n` per weight, and a step takes
      :math:`8 k m n` operations. With ``rank=None`` and blocks of :math:`d` rows these
      are :math:`8 d / n` bytes per weight and :math:`4 d m n` operations. A refresh
      takes some :math:`k^2 m` or :math:`d^2 m`. Updates keep the gradient's dtype.

    Raises:
      ValueError: if ``damping`` or ``exponent`` isn't above 0, not finite or not a
        scalar, ``memory`` isn't above 1, or ``refresh_every``, ``max_dim`` or ``rank``
        is below 1; in ``init`` and ``update``, if a tensor is complex.
      TypeError: if ``damping`` or ``memory`` is neither a number nor a schedule,
        ``exponent`` isn't a Python number, or ``refresh_every``, ``max_dim`` or
        ``rank`` isn't an integer.

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
      For :math:`q = 1/2` it is one-sided full-matrix AdaGrad: Duchi, Hazan and Singer,
      `Adaptive subgradient methods <https://jmlr.org/papers/v12/duchi11a.html>`_,
      2011. With inputs in place of gradients and :math:`q = 1`: Zeng et al.,
      `Orthogonal weights modification <https://arxiv.org/abs/1810.01256>`_, 2019. The
      sketch: Tropp et al., `Fixed-rank approximation of a positive-semidefinite matrix
      from streaming data <https://arxiv.org/abs/1706.05736>`_, 2017.
    """
    _hyperparameters.check_positive("damping", damping)
    _hyperparameters.check_memory("memory", memory)
    _hyperparameters.refuse_injected("exponent", exponent)
    _hyperparameters.check_power("exponent", exponent)
    if refresh_every is not None:
        _hyperparameters.check_positive_int("refresh_every", refresh_every)
    _hyperparameters.check_positive_int("max_dim", max_dim)
    if rank is not None:
        _hyperparameters.check_positive_int("rank", rank)

    def init_fn(params: optax.Params) -> ScaleByAccumulatedGramState:
        refuse_complex(params)

        def zeros(p: Any) -> Any:
            rows = math.prod(jnp.shape(p)[:-1])
            dtype = at_least_float32(jnp.result_type(p))
            if rank is not None and rank < rows:
                return _gram_sketch.zeros(rows, rank, dtype)
            return _gram_blocks.zeros(rows, max_dim, dtype)

        def place(p: Any, sums: Any) -> Any:
            return along_rows_of(p, sums, params)

        tensors = _boxes.unbox(params)
        gram = jax.tree.map(lambda p: place(p, zeros(p)), tensors)
        scaling = _map(lambda s: _form(s).identity(s), gram)
        scaling = jax.tree.map(place, tensors, scaling)
        return ScaleByAccumulatedGramState(initial_count(params), gram, scaling)

    def update_fn(
        updates: optax.Updates,
        state: ScaleByAccumulatedGramState,
        params: optax.Params | None = None,
        *,
        refresh: jax.typing.ArrayLike = False,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByAccumulatedGramState]:
        del params, extra_args
        refuse_complex(updates)
        kappa = _hyperparameters.at_step("damping", damping, state.count)
        kept = _hyperparameters.at_step("memory", memory, state.count)
        structure, updates = jax.tree.structure(updates), _boxes.unbox(updates)

        def matrix_of(g: Any, s: Any) -> Any:
            return None if g is None else _as_matrix(g, s)

        def sum_of(x: Any, s: Any) -> Any:
            if x is None:
                return s
            # Products and trace of a sketch are linear in the sum.
            return _form(s).add(jax.tree.map(lambda y: forget(y, kept), s), x)

        def power_of(s: Any, before: Any) -> Any:
            return _form(s).power(s, kappa, float(exponent), before)

        def update_of(g: Any, x: Any, s: Any, scaling: Any) -> Any:
            if g is None:
                return None
            x = _form(s).apply(scaling, x)
            return cut_like(g, in_dtype_of(g, x.reshape(g.shape)))

        def is_none(x: Any) -> bool:
            return x is None

        matrices = jax.tree.map(matrix_of, updates, state.gram, is_leaf=is_none)
        gram = jax.tree.map(sum_of, matrices, state.gram, is_leaf=is_none)
        in_turn = state.count % refresh_every if refresh_every else state.count
        scaling = jax.lax.cond(
            (in_turn == 0) | jnp.asarray(refresh, bool),
            lambda gram, before: _map(power_of, gram, before),
            lambda gram, before: before,
            gram,
            state.scaling,
        )
        gram, scaling = cut_as_before((gram, scaling), (state.gram, state.scaling))
        updates = jax.tree.map(
            update_of, updates, matrices, gram, scaling, is_leaf=is_none
        )
        updates = jax.tree.unflatten(structure, jax.tree.leaves(updates))
        count = optax.safe_increment(state.count)
        return updates, ScaleByAccumulatedGramState(count, gram, scaling)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _map(function: Callable[..., Any], sums: Any, *others: Any) -> Any:
    return jax.tree.map(function, sums, *others, is_leaf=_is_sketch)


def _is_sketch(node: Any) -> bool:
    return isinstance(node, _gram_sketch.GramSketch)


def _form(s: Any) -> Any:
    """How a sum is kept: the module with its arithmetic."""
    return _gram_sketch if _is_sketch(s) else _gram_blocks


def _as_matrix(g: jax.Array, s: Any) -> jax.Array:
    """A gradient as inputs by outputs, in its sum's dtype, finite and not cut."""
    columns = g.shape[-1] if g.ndim else 1
    x = uncut(g).reshape(math.prod(g.shape[:-1]), columns)
    return only_finite(x.astype(jax.tree.leaves(s)[0].dtype), 2.0)
