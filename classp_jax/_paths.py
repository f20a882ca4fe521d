"""The leaves of a pytree by path, and the replacing of all of them."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def by_path(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """The leaves of a pytree in their order, keyed by path: ``"conv1.kernel"``.

    The step from a Flax variable to its array, ``value``, is left out.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf)

    def is_node(x: Any) -> bool:
        return isinstance(x, optax.MaskedNode | None) or bool(is_leaf and is_leaf(x))

    # A variable has nothing else; the attention of a module may have query and key,
    # also where these are masked.
    nodes = jax.tree_util.tree_leaves_with_path(tree, is_node)
    below = collections.Counter(path[:i] for path, _ in nodes for i in range(len(path)))

    def name(path: tuple[Any, ...]) -> str:
        is_variable = len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value")
        if is_variable and below[path[:-1]] == 1:
            path = path[:-1]
        return jax.tree_util.keystr(path, simple=True, separator=".")

    named = {name(path): leaf for path, leaf in leaves}
    if len(named) < len(leaves):  # {"a.b": ...} beside {"a": {"b": ...}}
        return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    return named


def replace_leaves(tree: Any, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    """``tree`` with each leaf's values those of ``arrays`` at the leaf's path.

    A leaf keeps its dtype and, if it was placed on certain devices, its sharding.
    """
    leaves = by_path(tree)
    check_names("tensor", expected=leaves, actual=arrays)

    def replace(name: str, leaf: Any) -> Any:
        old = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        dtype = jax.dtypes.canonicalize_dtype(old.dtype)
        array = cast(name, arrays[name], dtype)
        if array.shape != old.shape:
            raise ValueError(f"{name} must have shape {old.shape}, got {array.shape}.")
        is_placed = getattr(leaf, "committed", False)
        return jax.device_put(array, leaf.sharding if is_placed else None)

    replaced = [replace(name, leaf) for name, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(tree), replaced)


def cast(name: str, array: Any, dtype: Any) -> np.ndarray[Any, Any]:
    """A contiguous copy in another dtype, or a ``ValueError`` where that changes it.

    From floats to floats the values may be rounded, as long as they stay finite.
    """
    array, dtype = np.asarray(array), np.dtype(dtype)
    if np.iscomplexobj(array) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"{name} must be real ({dtype}), got {array.dtype}.")
    with np.errstate(all="ignore"):
        # A copy: JAX may otherwise go on using memory that PyTorch writes to.
        new = np.array(array, dtype, order="C")
        if all(jnp.issubdtype(d, jnp.inexact) for d in (array.dtype, dtype)):
            is_kept = np.isfinite(new) == np.isfinite(array)
            is_kept &= np.isnan(new) == np.isnan(array)
        else:
            is_kept = new.astype(array.dtype) == array
    if not np.all(is_kept):
        raise ValueError(
            f"{name} must be {dtype}, which can't hold its"
            f" {array[~is_kept][0]} ({array.dtype})."
        )
    return new


def merged(what: str, parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All parts as one, or a ``ValueError`` that lists what several of them have."""
    found: dict[str, Any] = {}
    for part in parts:
        if twice := sorted(found.keys() & part):
            raise ValueError(f"There are two {what}s of {', '.join(twice)}.")
        found |= part
    return found


def check_names(what: str, expected: Iterable[str], actual: Iterable[str]) -> None:
    """Raises a ``ValueError`` that lists what is missing and what unexpected."""
    expected, actual = dict.fromkeys(expected), dict.fromkeys(actual)
    missing = [name for name in expected if name not in actual]
    unexpected = [name for name in actual if name not in expected]
    if missing or unexpected:
        raise ValueError(
            f"Every {what} must be given once; missing: {missing or 'none'},"
            f" unexpected: {unexpected or 'none'}."
        )
