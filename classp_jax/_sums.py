"""The sum of |g|^p of a tensor: in full, or as those of its rows and columns."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from classp_jax import _boxes, _placement
from classp_jax._arrays import at_least_float32, forget, largest_of, select
from classp_jax._powers import divide, only_finite, raise_to

# Elements at most: 2 MB of terms, about what a core's cache holds.
BLOCK = 2**19
_BLOCKS = 8  # At least, of a larger tensor.


class FactoredSum(NamedTuple):
    """The gradient sums over each row and each column of a tensor.

    It takes the place of one array in ``grad_sum`` of a
    :class:`ScaleByAccumulatedPowerNormState`. :func:`optax.tree.map_params` therefore
    can't give it a value that belongs to the whole tensor, such as a partition spec;
    :meth:`partition_specs` makes one for each part.

    Attributes:
      rows: shaped like the tensor without its last axis.
      columns: shaped like the tensor's last axis. With :func:`per_layer` both have an
        axis of layers in front.
    """

    rows: jax.Array
    columns: jax.Array

    def partition_specs(self, spec: PartitionSpec) -> FactoredSum:
        """Makes the partition specs of rows and columns from that of the tensor.

        Args:
          spec: the tensor's partition spec.

        Returns:
          A :class:`FactoredSum` of two partition specs. Rows are sharded like the
          tensor's leading axes, columns like its last one.

        Examples:
          >>> import jax
          >>> import jax.numpy as jnp
          >>> import optax
          >>> from jax.sharding import PartitionSpec as P
          >>> from classp_jax import FactoredSum, classp
          >>> optimizer = classp(0.1, factored=True)
          >>> params = {"kernel": jnp.ones((8, 6)), "bias": jnp.ones(6)}
          >>> specs = {"kernel": P("data", "model"), "bias": P("model")}
          >>> def is_factored(s): return isinstance(s, FactoredSum)
          >>> def spec_of(s, spec):
          ...     return s.partition_specs(spec) if is_factored(s) else spec
          >>> of_state = optax.tree.map_params(
          ...     optimizer, spec_of, jax.eval_shape(optimizer.init, params), specs,
          ...     transform_non_params=lambda _: P(), is_leaf=is_factored)
          >>> rows, columns = optax.tree.get(of_state, "grad_sum")["kernel"]
          >>> print(rows == P("data"), columns == P("model"))
          True True
        """
        last = self.rows.ndim
        of_rows = _boxes.names_of_axes(spec, last + 1, range(last))
        layers = range(stacked(self))
        of_columns = _boxes.names_of_axes(spec, last + 1, [*layers, last])
        specs: Any = map(_placement.spec_of_axes, (of_rows, of_columns))
        return FactoredSum(*specs)


Sum: TypeAlias = jax.Array | FactoredSum


def is_factored(node: Any) -> bool:
    """Whether a node of a tree of sums is a factored one."""
    return isinstance(node, FactoredSum)


def zeros(p: Any, dtype: Any, factored: bool, first: Any = None) -> Sum:
    """The sum of a tensor before its first step, factored where that is shorter.

    It lies on devices as the tensor does; ``first`` is the first of all tensors.
    """
    shape = jnp.shape(p)
    rows, columns = range(len(shape))[:-1], range(len(shape))[-1:]
    if factored and math.prod(shape[:-1]) + sum(shape[-1:]) < math.prod(shape):
        return FactoredSum(
            *(_placement.zeros_along(p, x, dtype, first) for x in (rows, columns))
        )
    if isinstance(p, jax.core.Tracer):
        return _placement.zeros_like_tracer(p, dtype)
    return jnp.zeros_like(p, dtype=dtype)


def in_boxes(sums: Any) -> Any:
    """A tree of sums with the two parts of a factored one each in a box of its own."""

    def pull_out(node: Any) -> Any:
        s = _boxes.content(node) if _boxes.is_box(node) else None
        if not isinstance(s, FactoredSum):
            return node
        last = s.rows.ndim
        return FactoredSum(
            _boxes.rebox(node, s.rows, last + 1, range(last)),
            _boxes.rebox(node, s.columns, last + 1, [last]),
        )

    return jax.tree.map(pull_out, sums, is_leaf=_boxes.is_box)


def of_rows_and_columns(terms: Any, stacked: int = 0) -> FactoredSum:
    """The sums of a tensor of terms, a JAX or NumPy array, or of a stack of tensors."""
    leading = tuple(range(stacked, terms.ndim - 1))
    return FactoredSum(terms.sum(-1), terms.sum(leading))


def accumulate(
    g: jax.Array,
    s: Sum,
    bound: jax.Array | None,
    infinity: jax.Array,
    memory: Any,
    power: Any,
    keeps_nonfinite: bool,
) -> Sum:
    """Algorithm 1, line 11, of a tensor: the sum with the present gradient in it."""
    dtype = computed_in(g, s)

    def term_of(part: jax.Array) -> jax.Array:
        part = part.astype(dtype)
        if not keeps_nonfinite:
            part = only_finite(part, power, infinity)
        term = raise_to(part, power)
        return term if bound is None else select(jnp.square(part) > bound, term, 0)

    if isinstance(s, FactoredSum):
        return _add_to_rows_and_columns(s, term_of, g, memory)
    total, term = forget(s.astype(dtype), memory), term_of(g)
    if keeps_nonfinite:
        total = total + term
        if s.dtype != dtype:  # What is finite stays so, also in fewer bits.
            bounded = jnp.minimum(total, largest_of(s.dtype))
            total = select(total < jnp.inf, bounded, total)
        return total.astype(s.dtype)
    # Two operands to the last operation: XLA's CPU backend would compute the minimum
    # of a sum and a constant once more in the update's loop.
    largest = largest_of(s.dtype)
    total = select(term < largest - total, total + term, largest)
    return total.astype(s.dtype)


def computed_in(g: jax.Array, s: Sum) -> Any:
    """The dtype for the arithmetic of a gradient and its sum, at least float32."""
    dtype = jax.tree.leaves(s)[0].dtype
    return jnp.promote_types(dtype, at_least_float32(g.dtype))


def _add_to_rows_and_columns(
    s: FactoredSum, term: Callable[[jax.Array], jax.Array], g: jax.Array, memory: Any
) -> FactoredSum:
    """A factored sum with a tensor's terms added; each row and column saturates.

    ``term`` makes them of any part of the tensor: finite, at least 0, and of at least
    the sum's dtype.
    """

    def saturated(x: jax.Array, more: jax.Array) -> jax.Array:
        total = forget(x.astype(more.dtype), memory) + more
        return jnp.minimum(total, largest_of(x.dtype)).astype(x.dtype)

    return FactoredSum(*map(saturated, s, _of_terms(term, g)))


def _of_terms(term: Callable[[jax.Array], jax.Array], g: jax.Array) -> FactoredSum:
    """The sums of rows and columns of a tensor's terms."""

    def at_once(g: jax.Array) -> FactoredSum:
        return of_rows_and_columns(term(g))

    # Of a tensor cut among devices, blocks would have to be gathered.
    if g.size <= BLOCK or jax.device_count() > 1:
        return at_once(g)
    in_blocks = functools.partial(_of_terms_in_blocks, term)
    sums: FactoredSum = jax.lax.platform_dependent(g, cpu=in_blocks, default=at_once)
    return sums


def _of_terms_in_blocks(
    term: Callable[[jax.Array], jax.Array], g: jax.Array
) -> FactoredSum:
    """The same, of one block of rows after the other.

    XLA's CPU backend stores what it sums; the terms of a block its cache holds.
    """
    length = max(g.shape[:-1])
    axis = g.shape.index(length)
    height = max(1, min(BLOCK * length // g.size, length // _BLOCKS))
    blocks, rest = divmod(length, height)

    def sums_of(start: jax.typing.ArrayLike, height: int) -> FactoredSum:
        block = jax.lax.dynamic_slice_in_dim(g, start, height, axis)
        return of_rows_and_columns(term(block))

    def add_block(i: jax.Array, sums: FactoredSum) -> FactoredSum:
        of_block = sums_of(i * height, height)
        rows = jax.lax.dynamic_update_slice_in_dim(
            sums.rows, of_block.rows, i * height, axis
        )
        return FactoredSum(rows, sums.columns + of_block.columns)

    rows, columns = sums_of(length - rest, rest)
    padding = [(length - rest, 0) if i == axis else (0, 0) for i in range(rows.ndim)]
    sums = FactoredSum(jnp.pad(rows, padding), columns)
    result: FactoredSum = jax.lax.fori_loop(0, blocks, add_block, sums)
    return result


def of_each_weight(s: Sum, dtype: Any = None) -> jax.Array:
    """What a sum says of each weight: R_i C_j over the sum of all, if factored."""
    dtype = jax.tree.leaves(s)[0].dtype if dtype is None else dtype
    if not isinstance(s, FactoredSum):
        full: jax.Array = s.astype(dtype)
        return full
    rows, columns = s.rows.astype(dtype), s.columns.astype(dtype)
    leading = tuple(range(stacked(s), rows.ndim))
    # An eighth of the mean, should the sum or its inverse not be a finite number above
    # 0: the quotient is the same.
    is_sound = jnp.sum(rows, leading, keepdims=True) < largest_of(dtype) / 8
    rows = jnp.where(is_sound, rows, rows / (8 * rows.size))
    of_all = jnp.sum(rows, leading)[..., None]
    share = divide(columns, jnp.where(of_all > 0, of_all, 1))
    return rows[..., None] * jnp.expand_dims(share, leading)


def total(s: Sum) -> jax.Array:
    """The sum over all weights, in at least float32."""
    rows = jnp.asarray(jax.tree.leaves(s)[0])
    return jnp.sum(rows, dtype=jnp.promote_types(rows.dtype, jnp.float32))


def size(s: Sum) -> int:
    """The number of weights that a sum is of."""
    if isinstance(s, FactoredSum):
        return s.rows.size * s.columns.shape[-1]
    return jnp.size(s)


def stacked(s: FactoredSum) -> int:
    """The number of axes that vmap has put before the tensor's."""
    return s.columns.ndim - 1


def untouched(s: Sum) -> jax.Array:
    """The number of weights of which a sum says 0, as float32."""
    if isinstance(s, FactoredSum):
        rows = jnp.mean(s.rows != 0, tuple(range(stacked(s), s.rows.ndim)))
        columns = jnp.mean(s.columns != 0, -1)
        return jnp.mean(1 - rows * columns) * float(size(s))
    return jnp.sum(s == 0, dtype=jnp.float32)
