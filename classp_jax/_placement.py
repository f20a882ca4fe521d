"""Where an optimizer's state lies on devices: as a jitted step would leave it.

A state that lies elsewhere has the second step compiled once more than the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from classp_jax import _boxes


def initial_count(params: optax.Params) -> jax.Array:
    """Step 0, placed as :func:`replicated_over_mesh_of` has it."""
    count: jax.Array = replicated_over_mesh_of(params, jnp.zeros([], jnp.int32))
    return count


def replicated_over_mesh_of(params: optax.Params, scalars: Any) -> Any:
    """A tree of scalars, on all devices of the parameters' mesh if they have one.

    A jitted step would leave them there, and a second call compile again.
    """
    for leaf in jax.tree.leaves(params):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(leaf, jax.core.Tracer) or not isinstance(sharding, NamedSharding):
            continue
        if isinstance(sharding.mesh, Mesh):  # Not an abstract one.
            everywhere = PartitionSpec()
            return jax.device_put(scalars, NamedSharding(sharding.mesh, everywhere))
    return scalars


def placed_like(p: Any, x: Any) -> Any:
    """An array on the devices of the parameter that it is shaped like.

    A jitted step would leave it there, and a second call compile again.
    """
    if isinstance(p, jax.core.Tracer):
        x = jnp.asarray(x)
        # The select tells the compiler that it lies as p does.
        return jnp.where(False, p.astype(x.dtype), x)
    is_placed = isinstance(p, jax.ShapeDtypeStruct) or getattr(p, "committed", False)
    return jax.device_put(x, p.sharding) if is_placed else x


def zeros_along(p: Any, axes: Sequence[int], dtype: Any, first: Any) -> jax.Array:
    """Zeros along some axes of a tensor, which lie on devices as these do."""
    ndim = jnp.ndim(p)
    if isinstance(p, jax.core.Tracer):
        return zeros_like_tracer(p, dtype).sum(tuple(set(range(ndim)) - set(axes)))
    sharding = getattr(p, "sharding", None)
    if isinstance(sharding, NamedSharding):
        names = _boxes.names_of_axes(sharding.spec, ndim, axes)
        sharding = _as_a_step_returns_it(sharding, names, first)
    elif not getattr(p, "committed", True):
        sharding = None
    return jnp.zeros([jnp.shape(p)[axis] for axis in axes], dtype, device=sharding)


def zeros_like_tracer(p: jax.Array, dtype: Any) -> jax.Array:
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
