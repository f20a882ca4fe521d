"""A tensor's sum of |g|^p kept as those of its rows and of its columns."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from classp_jax import _boxes

# Elements at most: 2 MB of terms, about what a core's cache holds.
BLOCK = 2**19
_BLOCKS = 8  # At least, of a larger tensor.


class FactoredSum(NamedTuple):
    """The sums over each row and each column of a tensor; columns are its last axis.

    It stands in ``grad_sum`` of a :class:`ScaleByAccumulatedPowerNormState` where the
    sum of another tensor is one array. :func:`optax.tree.map_params` therefore refuses
    to give it what belongs to the whole tensor, such as a partition spec;
    :meth:`partition_specs` makes those of its parts.

    Attributes:
      rows: shaped like the tensor without its last axis.
      columns: shaped like the tensor's last axis. With :func:`per_layer` both have the
        axis of the layers in front.
    """

    rows: jax.Array
    columns: jax.Array

    def partition_specs(self, spec: PartitionSpec) -> FactoredSum:
        """The partition specs of rows and columns, from that of the tensor.

        Args:
          spec: the tensor's partition spec.

        Returns:
          A :class:`FactoredSum` of two partition specs: the rows lie as the tensor's
          leading axes do, the columns as its last.

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
        return FactoredSum(_spec(of_rows), _spec(of_columns))  # type: ignore[arg-type]


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
        return FactoredSum(*(_zeros(p, x, dtype, first) for x in (rows, columns)))
    if isinstance(p, jax.core.Tracer):
        return _zeros_of_tracer(p, dtype)
    return jnp.zeros_like(p, dtype=dtype)


def in_boxes(sums: Any) -> Any:
    """A tree of sums with the two parts of a factored one each in a box of its own."""

    def pull_out(node: Any) -> Any:
        s = _boxes.content(node) if _boxes.is_box(node) else None
        if not isinstance(s, FactoredSum):
            return node
        last = s.rows.ndim
        return FactoredSum(
            _boxes.alike(node, s.rows, last + 1, range(last)),
            _boxes.alike(node, s.columns, last + 1, [last]),
        )

    return jax.tree.map(pull_out, sums, is_leaf=_boxes.is_box)


def of_rows_and_columns(terms: Any, stacked: int = 0) -> FactoredSum:
    """The sums of a tensor of terms, a JAX or NumPy array, or of a stack of tensors."""
    leading = tuple(range(stacked, terms.ndim - 1))
    return FactoredSum(terms.sum(-1), terms.sum(leading))


def largest(dtype: jax.typing.DTypeLike) -> float:
    """The largest finite number of a dtype, where a sum saturates."""
    return float(jnp.finfo(dtype).max)  # type: ignore[no-untyped-call]


def smallest(dtype: jax.typing.DTypeLike) -> float:
    """The smallest number above 0 that a dtype holds in full."""
    return float(jnp.finfo(dtype).tiny)  # type: ignore[no-untyped-call]


@jax.custom_jvp
def quotient(x: jax.Array, y: jax.Array) -> jax.Array:
    """``x / y``; its derivatives don't overflow where the square of y underflows."""
    return x / y


@quotient.defjvp
def _quotient_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    x, y = primals
    x_dot, y_dot = tangents
    u, bound = quotient(x, y), largest(y.dtype)
    # Finite, as they may meet tangents of 0, and tangents first for the same reason.
    inverse = jnp.minimum(quotient(jnp.ones_like(y), y), bound)
    return u, x_dot * inverse - y_dot * inverse * jnp.clip(u, -bound, bound)


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
    leading = tuple(range(stacked(s), rows.ndim))
    # An eighth of the mean, should the sum or its inverse not be a finite number above
    # 0: the quotient is the same.
    is_sound = jnp.sum(rows, leading, keepdims=True) < largest(dtype) / 8
    rows = jnp.where(is_sound, rows, rows / (8 * rows.size))
    of_all = jnp.sum(rows, leading)[..., None]
    share = quotient(columns, jnp.where(of_all > 0, of_all, 1))
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


def _zeros(p: Any, axes: Sequence[int], dtype: Any, first: Any) -> jax.Array:
    """Zeros along some axes of a tensor, which lie on devices as these do."""
    ndim = jnp.ndim(p)
    if isinstance(p, jax.core.Tracer):
        return _zeros_of_tracer(p, dtype).sum(tuple(set(range(ndim)) - set(axes)))
    sharding = getattr(p, "sharding", None)
    if isinstance(sharding, NamedSharding):
        names = _boxes.names_of_axes(sharding.spec, ndim, axes)
        sharding = _as_a_step_returns_it(sharding, names, first)
    elif not getattr(p, "committed", True):
        sharding = None
    return jnp.zeros([jnp.shape(p)[axis] for axis in axes], dtype, device=sharding)


def _zeros_of_tracer(p: jax.Array, dtype: Any) -> jax.Array:
    # The select tells the compiler, and vmap, that they lie as p does.
    return jnp.where(False, p, 0).astype(dtype)


def _as_a_step_returns_it(
    like: NamedSharding, names: Sequence[Any], first: Any
) -> NamedSharding:
    """A sharding spelled as a jitted step returns it, or the next would compile again.

    A step over explicit axes spells every name. Others leave out what cuts nothing, but
    for arrays that lie just as the first argument does, which they spell like it.
    """

    def sharding(names: Sequence[Any]) -> NamedSharding:
        return NamedSharding(like.mesh, _spec(names), memory_kind=like.memory_kind)

    if AxisType.Explicit in like.mesh.axis_types:
        return sharding(names)
    placed, of_first = sharding(names), getattr(first, "sharding", None)
    if (
        isinstance(of_first, NamedSharding)
        and first.ndim == len(names)
        and of_first.is_equivalent_to(placed, first.ndim)
    ):
        return of_first
    cut = [_that_cut(name, like.mesh.shape) for name in names]
    while cut and cut[-1] is None:
        cut.pop()
    return sharding(cut)


def _that_cut(names: Any, sizes: Mapping[Any, int]) -> Any:
    """The names of a tensor's axis that stand for more than one device."""
    if not isinstance(names, tuple):
        names = (names,)
    cut = tuple(name for name in names if name is not None and sizes[name] > 1)
    return cut or None


def _spec(names: Sequence[Any]) -> PartitionSpec:
    spec: PartitionSpec = PartitionSpec(*names)  # type: ignore[no-untyped-call]
    return spec
