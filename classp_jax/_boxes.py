"""Parameters that Flax keeps in a box with the names of their axes.

Such are ``nnx.Variable`` and Linen's ``Partitioned``. Both are told by their methods,
so that the library needs no Flax.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

_NNX_NAMES = ("out_sharding", "optimizer_sharding", "sharding", "sharding_names")


def is_box(node: Any) -> bool:
    """Whether a node of a tree is a box."""
    return any(hasattr(type(node), name) for name in ("replace_boxed", "get_metadata"))


def unbox(tree: Any) -> Any:
    """The tree with what is in its boxes in place of these."""
    return jax.tree.map(
        lambda node: unbox(content(node)) if is_box(node) else node,
        tree,
        is_leaf=is_box,
    )


def content(box: Any) -> Any:
    """What is in a box."""
    (value,), _ = jax.tree_util.default_registry.flatten_one_level(box)
    return value


def rebox(box: Any, value: Any, ndim: int, axes: Sequence[int]) -> Any:
    """A box of what has some of the ``ndim`` axes of a box's content, and their names.

    Without a box where its names aren't known.
    """
    if hasattr(box, "get_metadata"):
        metadata = box.get_metadata()
        names = {
            name: _of_axes(metadata[name], ndim, axes)
            for name in _NNX_NAMES
            if name in metadata
        }
        return box.replace(value, **names)
    if hasattr(box, "names"):
        return box.replace(value=value, names=_of_axes(box.names, ndim, axes))
    return value


def names_of_axes(names: Iterable[Any], ndim: int, axes: Sequence[int]) -> list[Any]:
    """The names of some of a tensor's ``ndim`` axes; None where one has none.

    More names than axes are those of a stack of tensors: the first stay in front.
    """
    names = list(names)
    stacked = max(len(names) - ndim, 0)
    names += [None] * ndim
    return [*names[:stacked], *(names[stacked + axis] for axis in axes)]


def _of_axes(names: Any, ndim: int, axes: Sequence[int]) -> Any:
    """The same, in the form in which the names are given, and without those behind."""
    if isinstance(names, NamedSharding):
        return NamedSharding(names.mesh, _of_axes(names.spec, ndim, axes))
    if not isinstance(names, (PartitionSpec, list, tuple)):
        return None
    left = names_of_axes(iter(names), ndim, axes)
    while left and left[-1] is None:  # As a jitted step spells what it returns.
        left.pop()
    is_spec = isinstance(names, PartitionSpec)
    return PartitionSpec(*left) if is_spec else tuple(left)
