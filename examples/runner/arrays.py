"""A tree's arrays by their paths, as the files of checkpoints hold them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from examples.runner.data import Array


def as_numpy(tree: Any, array: Callable[[Any], np.ndarray]) -> dict[str, np.ndarray]:
    """A tree's leaves by their paths, random keys as the integers they're made of."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): array(
            jax.random.key_data(x) if is_key(x) else x
        )
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def described(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """The arrays' dtypes and shapes, in words."""
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in arrays.items()}


def is_key(x: jax.Array) -> bool:
    """Whether an array is of random keys."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def placed(array: np.ndarray, like: jax.Array) -> jax.Array:
    """The array on the devices of another, and a random key where that is one."""
    sharding = like.sharding if like.committed else None
    value: Array = array
    if is_key(like):
        of_key = jnp.asarray(array)
        value = jax.random.wrap_key_data(of_key, impl=jax.random.key_impl(like))
    there: jax.Array = jax.device_put(value, sharding)
    return there
