"""Random keys that an optimizer's state holds, and noise like the parameters."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import optax

from classp_jax import _placement
from classp_jax._arrays import at_least_float32, is_key


def check_key(name: str, key: Any) -> None:
    """Raises a ``TypeError`` unless ``key`` is a seed or a key of :mod:`jax.random`."""
    is_seed = isinstance(key, Integral) and not isinstance(key, bool)
    if isinstance(key, jax.Array) and key.ndim == 0:
        of = key.dtype
        is_seed = jnp.issubdtype(of, jnp.integer) or is_key(key)  # Injected, or a key.
    if not is_seed:
        raise TypeError(
            f"{name} must be an integer or a key that jax.random.key makes, got"
            f" {key!r}."
        )


def initial_key(params: optax.Params, key: jax.Array | int) -> jax.Array:
    """The key of a seed or a key, whole on all devices of the parameters' mesh.

    A copy, as a step that donates the state would delete the user's.
    """
    of = key if isinstance(key, jax.Array) and is_key(key) else jax.random.key(key)
    placed: jax.Array = _placement.replicated_over_mesh_of(params, of.copy())
    return placed


def normal_like(key: jax.Array, tree: Any) -> Any:
    """Standard normal noise shaped like the leaves of a tree, in at least float32."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, max(len(leaves), 1))
    noise = [
        _placement.cut_like(x, jax.random.normal(k, x.shape, at_least_float32(x.dtype)))
        for k, x in zip(keys, leaves, strict=False)
    ]
    return jax.tree.unflatten(structure, noise)
