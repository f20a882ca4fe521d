"""The leaves of a pytree by path, and the replacing of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np


def by_path(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """The leaves of a pytree, keyed by path: ``"conv1.kernel"``."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf)
    named = {path_name(path): leaf for path, leaf in leaves}
    if len(named) < len(leaves):  # {"a.b": ...} beside {"a": {"b": ...}}
        return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    return named


def path_name(path: tuple[Any, ...]) -> str:
    """A leaf's path, less the step from a Flax variable to its array."""
    is_variable = len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value")
    return jax.tree_util.keystr(
        path[:-1] if is_variable else path, simple=True, separator="."
    )


def replace_leaves(tree: Any, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    """``tree`` with each leaf's values those of ``arrays`` at the leaf's path.

    A leaf keeps its dtype and, if it was placed on certain devices, its sharding.
    """
    check_names("tensor", expected=by_path(tree), actual=arrays)

    def replace(path: tuple[Any, ...], leaf: Any) -> Any:
        name = path_name(path)
        # A copy: JAX may otherwise go on using memory that PyTorch writes to.
        array = np.array(arrays[name], leaf.dtype, order="C")
        if array.shape != leaf.shape:
            raise ValueError(f"{name} must have shape {leaf.shape}, got {array.shape}.")
        is_placed = getattr(leaf, "committed", False)
        return jax.device_put(array, leaf.sharding if is_placed else None)

    return jax.tree_util.tree_map_with_path(replace, tree)


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
