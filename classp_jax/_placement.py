"""Where an optimizer's state lies on devices: as a jitted step would leave it.

A state that lies elsewhere has the second step compiled once more than the first.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.experimental.shard_alike import shard_alike
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from classp_jax import _boxes


def initial_count(params: optax.Params) -> jax.Array:
    """Step 0, placed as :func:`replicated_over_mesh_of` has it."""
    count: jax.Array = replicated_over_mesh_of(params, jnp.zeros([], jnp.int32))
    return count


def replicated_over_mesh_of(params: optax.Params, scalars: Any) -> Any:
    """A tree of scalars or other arrays, whole on all devices of the parameters' mesh.

    A jitted step would leave them there, and a second call compile again.
    """
    for leaf in jax.tree.leaves(params):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(leaf, jax.core.Tracer) or not isinstance(sharding, NamedSharding):
            continue
        if isinstance(sharding.mesh, Mesh):  # Not an abstract one.
            place = functools.partial(_replicated, sharding.mesh)
            return jax.tree.map(place, scalars)
    return scalars


def _replicated(mesh: Mesh, x: jax.Array) -> jax.Array:
    # A step over explicit axes spells a name for every axis of what it returns.
    names = [None] * x.ndim if AxisType.Explicit in mesh.axis_types else []
    replicated: jax.Array = jax.device_put(x, NamedSharding(mesh, spec_of_axes(names)))
    return replicated


def along_rows_of(p: Any, sums: Any, params: optax.Params) -> Any:
    """A tensor's sums, cut along their first axis as the tensor is along its own.

    It stands for the tensor's rows, one by one or in blocks. Whole on all devices of
    the parameters' mesh where it can't be cut evenly so, and over explicit axes.
    """
    if isinstance(p, jax.core.Tracer):
        return jax.tree.map(lambda x: _rows_of_tracer(p, x), sums)
    sums, first = replicated_over_mesh_of(params, sums), jax.tree.leaves(params)[0]
    if jnp.ndim(p) < 2:
        return sums
    return jax.tree.map(lambda x: _rows_of_array(p, x, first) if x.ndim else x, sums)


def _rows_of_tracer(p: jax.Array, x: jax.Array) -> jax.Array:
    if p.ndim < 2 or x.ndim == 0 or p.size % len(x):
        # In a shard_map a sum differs from device to device as its tensor does.
        return jnp.where(False, p.sum().astype(x.dtype), x)
    rows = uncut(p).reshape(len(x), -1).sum(1).astype(x.dtype)
    rows = jnp.broadcast_to(jax.lax.expand_dims(rows, range(1, x.ndim)), x.shape)
    return _lying_like(rows, x)


def _rows_of_array(p: Any, x: jax.Array, first: Any) -> jax.Array:
    sharding = getattr(p, "sharding", None)
    if not isinstance(sharding, NamedSharding) or not isinstance(sharding.mesh, Mesh):
        return x
    (row, *_), sizes = [*sharding.spec, None], sharding.mesh.shape
    names = _that_cut(row, sizes) or ()
    devices = math.prod(sizes[name] for name in names)
    is_explicit = AxisType.Explicit in sharding.mesh.axis_types
    if devices == 1 or len(x) % devices or is_explicit:
        return x
    axes = [row] + [None] * (x.ndim - 1)
    placed: jax.Array = jax.device_put(x, _as_a_step_returns_it(sharding, axes, first))
    return placed


def placed_like(p: Any, x: Any) -> Any:
    """An array on the devices of the parameter that it is shaped like.

    A jitted step would leave it there, and a second call compile again.
    """
    if isinstance(p, jax.core.Tracer):
        x = jnp.asarray(x)
        return _lying_like(p.astype(x.dtype), x)
    is_placed = isinstance(p, jax.ShapeDtypeStruct) or getattr(p, "committed", False)
    return jax.device_put(x, p.sharding) if is_placed else x


def zeros_along(p: Any, axes: Sequence[int], dtype: Any, first: Any) -> jax.Array:
    """Zeros along some axes of a tensor, which lie on devices as these do."""
    ndim = jnp.ndim(p)
    if isinstance(p, jax.core.Tracer):
        return zeros_like_tracer(p.sum(tuple(set(range(ndim)) - set(axes))), dtype)
    sharding = getattr(p, "sharding", None)
    if isinstance(sharding, NamedSharding):
        names = _boxes.names_of_axes(sharding.spec, ndim, axes)
        sharding = _as_a_step_returns_it(sharding, names, first)
    elif not getattr(p, "committed", True):
        sharding = None
    return jnp.zeros([jnp.shape(p)[axis] for axis in axes], dtype, device=sharding)


def zeros_like_tracer(p: jax.Array, dtype: Any) -> jax.Array:
    """Zeros of a tensor's shape, which lie on devices as it does."""
    return _lying_like(p.astype(dtype), jnp.zeros([], dtype))


def _lying_like(p: jax.Array, x: jax.Array) -> jax.Array:
    """An array, or a scalar at each of its places, that lies as a traced one does.

    The select tells vmap, shard_map and explicit axes so; the compiler for TPUs folds
    it before it asks what lies where. Nobody reads the tensor, so that it isn't made.
    """
    alike: jax.Array = shard_alike(jnp.where(False, p, x), p)[0]
    return alike


def uncut(x: jax.Array) -> jax.Array:
    """A tensor that lies whole on each device, where its type says that it doesn't.

    Over explicit mesh axes the product of a cut one with itself is ambiguous.
    """
    sharding = _explicit_sharding(x)
    if sharding is None:
        return x
    return _reshard(x, NamedSharding(sharding.mesh, spec_of_axes([])))


def cut_like(like: jax.Array, x: jax.Array) -> jax.Array:
    """A tensor that lies on explicit mesh axes as another of its shape does."""
    sharding = _explicit_sharding(like)
    return x if sharding is None else _reshard(x, sharding)


def cut_as_before(arrays: Any, before: Any) -> Any:
    """What a step makes of a state's arrays, lying as they did.

    Of products of a tensor that is cut the compiler would choose something else.
    """
    return jax.tree.map(lambda x, y: shard_alike(x, y)[0], arrays, before)


def _explicit_sharding(x: jax.Array) -> NamedSharding | None:
    if not hasattr(jax.sharding, "reshard"):  # Explicit axes were an experiment then.
        return None
    sharding: NamedSharding = jax.typeof(x).sharding
    is_cut = any(names is not None for names in sharding.spec)
    return sharding if is_cut else None


def _reshard(x: jax.Array, sharding: NamedSharding) -> jax.Array:
    resharded: jax.Array = jax.sharding.reshard(x, sharding)
    return resharded


def _as_a_step_returns_it(
    like: NamedSharding, names: Sequence[Any], first: Any
) -> NamedSharding:
    """A sharding spelled as a jitted step returns it, or the next would compile again.

    A step over explicit axes spells every name. Others leave out what cuts nothing, but
    for arrays that lie just as the first argument does, which they spell like it.
    """

    def sharding(names: Sequence[Any]) -> NamedSharding:
        return NamedSharding(
            like.mesh, spec_of_axes(names), memory_kind=like.memory_kind
        )

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


def spec_of_axes(names: Sequence[Any]) -> PartitionSpec:
    """A partition spec of the mesh axes that each of a tensor's axes is cut over."""
    spec: PartitionSpec = PartitionSpec(*names)
    return spec
