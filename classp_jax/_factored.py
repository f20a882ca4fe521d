"""A tensor's sum of |g|^p kept as those of its rows and of its columns."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

# Elements at most: 2 MB of terms, about what a core's cache holds.
BLOCK = 2**19
_BLOCKS = 8  # At least, of a larger tensor.


class FactoredSum(NamedTuple):
    """The sums over each row and each column; the columns are the last axis.

    Attributes:
      rows: shaped like the tensor without its last axis.
      columns: shaped like its last axis.
    """

    rows: jax.Array
    columns: jax.Array


Sum: TypeAlias = jax.Array | FactoredSum


def is_factored(node: Any) -> bool:
    """Whether a node of a tree of sums is a factored one."""
    return isinstance(node, FactoredSum)


def zeros(p: jax.typing.ArrayLike, dtype: Any, factored: bool) -> Sum:
    """The sum of a tensor before its first step, factored where that is shorter."""
    shape = jnp.shape(p)
    rows, columns = range(len(shape))[:-1], range(len(shape))[-1:]
    if factored and math.prod(shape[:-1]) + sum(shape[-1:]) < math.prod(shape):
        return FactoredSum(_zeros(p, rows, dtype), _zeros(p, columns, dtype))
    return jnp.zeros_like(p, dtype=dtype)


def of_rows_and_columns(terms: Any) -> FactoredSum:
    """The sums of a tensor of terms, a JAX or NumPy array."""
    return FactoredSum(terms.sum(-1), terms.sum(tuple(range(terms.ndim - 1))))


def largest(dtype: jax.typing.DTypeLike) -> float:
    """The largest finite number of a dtype, where a sum saturates."""
    return float(jnp.finfo(dtype).max)  # type: ignore[no-untyped-call]


def smallest(dtype: jax.typing.DTypeLike) -> float:
    """The smallest number above 0 that a dtype holds in full."""
    return float(jnp.finfo(dtype).tiny)  # type: ignore[no-untyped-call]


def add(
    s: FactoredSum, term: Callable[[jax.Array], jax.Array], g: jax.Array
) -> FactoredSum:
    """A factored sum with a tensor's terms added; each row and column saturates.

    ``term`` makes them of any part of the tensor: finite, at least 0, and of at least
    the sum's dtype.
    """
    return FactoredSum(
        *(
            jnp.minimum(x.astype(more.dtype) + more, largest(x.dtype)).astype(x.dtype)
            for x, more in zip(s, _sums(term, g), strict=True)
        )
    )


def _sums(term: Callable[[jax.Array], jax.Array], g: jax.Array) -> FactoredSum:
    """The sums of rows and columns of a tensor's terms."""

    def at_once(g: jax.Array) -> FactoredSum:
        return of_rows_and_columns(term(g))

    # Of a tensor cut among devices, blocks would have to be gathered.
    if g.size <= BLOCK or jax.device_count() > 1:
        return at_once(g)
    in_blocks = functools.partial(_sums_in_blocks, term)
    sums: FactoredSum = jax.lax.platform_dependent(g, cpu=in_blocks, default=at_once)
    return sums


def _sums_in_blocks(
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
    # An eighth of the mean, should the sum or its inverse not be a finite number above
    # 0: the quotient is the same.
    is_sound = jnp.sum(rows) < largest(dtype) / 8
    rows = jnp.where(is_sound, rows, rows / (8 * rows.size))
    of_all = jnp.sum(rows)
    share = columns / jnp.where(of_all > 0, of_all, 1)
    return rows[..., None] * jnp.expand_dims(share, tuple(range(rows.ndim)))


def total(s: Sum) -> jax.Array:
    """The sum over all weights, in at least float32."""
    rows = jnp.asarray(jax.tree.leaves(s)[0])
    return jnp.sum(rows, dtype=jnp.promote_types(rows.dtype, jnp.float32))


def size(s: Sum) -> int:
    """The number of weights that a sum is of."""
    if isinstance(s, FactoredSum):
        return s.rows.size * s.columns.shape[-1]
    return jnp.size(s)


def untouched(s: Sum) -> jax.Array:
    """The number of weights of which a sum says 0, as float32."""
    if isinstance(s, FactoredSum):
        stacked = s.columns.ndim - 1  # Axes that vmap has put before the tensor's.
        rows = jnp.mean(s.rows != 0, tuple(range(stacked, s.rows.ndim)))
        columns = jnp.mean(s.columns != 0, -1)
        return jnp.mean(1 - rows * columns) * float(size(s))
    return jnp.sum(s == 0, dtype=jnp.float32)


def unused(p: jax.typing.ArrayLike) -> jax.Array:
    """What stands for the columns of a tensor whose sum isn't factored."""
    return _placed(jnp.zeros(1), p, [None])


def _zeros(p: jax.typing.ArrayLike, axes: Sequence[int], dtype: Any) -> jax.Array:
    """Zeros along some axes of a tensor."""
    if isinstance(p, jax.core.Tracer):  # What it lies on is in its type.
        others = set(range(jnp.ndim(p))) - set(axes)
        return jnp.zeros_like(p, dtype=dtype).sum(tuple(others))
    zeros = jnp.zeros([jnp.shape(p)[axis] for axis in axes], dtype)
    return _placed(zeros, p, axes)


def _placed(
    array: jax.Array, p: jax.typing.ArrayLike, axes: Sequence[int | None]
) -> jax.Array:
    """An array whose axes lie on devices as some of a tensor's do, or on all."""
    if not isinstance(p, jax.Array) or isinstance(p, jax.core.Tracer):
        return array
    if not isinstance(p.sharding, NamedSharding):
        return array
    mesh, spec = p.sharding.mesh, p.sharding.spec
    cut = [*spec, *[None] * p.ndim]
    names = [None if axis is None else cut[axis] for axis in axes]
    # As a jitted step spells what it returns, or the next one would compile again.
    in_full = AxisType.Explicit in mesh.axis_types or tuple(spec)[-1:] == (None,)
    while names and names[-1] is None and not in_full:
        names.pop()
    spec = PartitionSpec(*names)  # type: ignore[no-untyped-call]
    placed: jax.Array = jax.device_put(array, NamedSharding(mesh, spec))
    return placed
