"""Several devices, of one process or many, as one mesh.

Examples are cut along the mesh's axis ``data``, large weights and what an optimizer
keeps of them along ``model``; everything else is on every device. XLA finds out what to
communicate.
"""

import argparse
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from examples.runner.arrays import is_key

_AXES = ("data", "model")
LARGE = 2**20  # Elements of an array worth cutting.


def axis(text: str) -> tuple[str, int]:
    """A mesh's axis and size, from ``name=size``."""
    name, _, size = text.partition("=")
    if name not in _AXES or not size.isdecimal() or int(size) < 1:
        raise argparse.ArgumentTypeError(
            f"must be data=N or model=N, N from 1 on, got {text}"
        )
    return name, int(size)


def make_mesh(axes: list[tuple[str, int]] | None) -> Mesh | None:
    """A mesh of all devices, None if no axes are given.

    Args:
      axes: names, of ``data`` and ``model``, and sizes.

    Returns:
      The mesh, which has both axes.

    Raises:
      ValueError: an axis is named twice, or the sizes' product isn't the number of
        devices.
    """
    if not axes:
        return None
    sizes = dict.fromkeys(_AXES, 1) | dict(axes)
    words = " ".join(f"{name}={size}" for name, size in axes)
    if len(dict(axes)) < len(axes):
        raise ValueError(f"an axis is named twice: {words}")
    wanted, count = math.prod(sizes.values()), jax.device_count()
    if wanted != count:
        raise ValueError(f"{words} makes {wanted} devices, of {count} there are")
    return jax.make_mesh(
        tuple(sizes.values()), _AXES, axis_types=(AxisType.Auto,) * len(_AXES)
    )


def sharding_of(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """How weights of a shape lie: large ones cut along their last axis, if they can."""
    large = len(shape) > 0 and math.prod(shape) >= LARGE
    cut = large and shape[-1] % mesh.shape["model"] == 0
    axes = [None] * (len(shape) - 1) + ["model"] if cut else []
    return NamedSharding(mesh, PartitionSpec(*axes))


def place(tree: Any, mesh: Mesh | None, *, shard: bool = True) -> Any:
    """Puts arrays where they lie; all processes must have the same.

    Args:
      tree: of arrays.
      mesh: the devices; by default JAX's own choice.
      shard: whether large ones are cut, or all are everywhere.

    Returns:
      The tree, on the devices.
    """
    if mesh is None:
        return jax.device_put(tree)
    places = jax.tree.map(lambda x: sharding_of(mesh, x.shape if shard else ()), tree)
    # Unlike device_put, also onto other processes' devices.
    return jax.jit(lambda tree: tree, out_shardings=places)(tree)


def constrain(tree: Any, mesh: Mesh | None) -> Any:
    """Keeps arrays where :func:`place` put them, inside a compiled step."""
    if mesh is None:
        return tree
    return jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(x, sharding_of(mesh, x.shape)), tree
    )


def shard_batch(batch: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Cuts a batch, (n, ...), along ``data``; one of too few stays whole."""
    if mesh is None or len(batch) < mesh.shape["data"]:
        return batch
    cut: jax.Array = jax.lax.with_sharding_constraint(
        batch, NamedSharding(mesh, PartitionSpec("data"))
    )
    return cut


def columns_here(batch: int, mesh: Mesh | None) -> np.ndarray:
    """Which of a batch's examples the devices of this process need.

    Args:
      batch: how many the batch has.
      mesh: the devices.

    Returns:
      Those that lie on them where it's cut along ``data``; all where it can't be cut
      evenly, or there is no mesh.
    """
    if mesh is None:
        return np.arange(batch)
    cut = NamedSharding(mesh, PartitionSpec(*_cut_evenly(batch, mesh)))
    indices = cut.addressable_devices_indices_map((batch,)).values()
    return np.unique(np.concatenate([np.arange(batch)[of] for of in indices if of]))


def place_columns(inputs: np.ndarray, batch: int, mesh: Mesh | None) -> jax.Array:
    """Puts what each process has read onto its devices, as one array of all.

    Args:
      inputs: (seeds, steps, columns, ...), of those that :func:`columns_here` names.
      batch: how many a batch has.
      mesh: the devices.

    Returns:
      The inputs, (seeds, steps, batch, ...), cut along ``data``.
    """
    if mesh is None:
        return jnp.asarray(inputs)
    spec = PartitionSpec(None, None, *_cut_evenly(batch, mesh))
    shape = (*inputs.shape[:2], batch, *inputs.shape[3:])
    placed: jax.Array = jax.make_array_from_process_local_data(
        NamedSharding(mesh, spec), inputs, shape
    )
    return placed


def _cut_evenly(batch: int, mesh: Mesh) -> list[str]:
    return ["data"] if batch % mesh.shape["data"] == 0 else []


def to_host(tree: Any) -> Any:
    """Arrays as NumPy's, whole, in every process; random keys as their integers."""

    def whole(x: jax.Array) -> np.ndarray:
        if is_key(x):
            x = jax.random.key_data(x)
        if x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        gathered: np.ndarray = multihost_utils.process_allgather(x, tiled=True)
        return gathered

    return jax.tree.map(whole, tree)


def is_first_process() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return jax.process_index() == 0


def barrier(what: str) -> None:
    """Until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
