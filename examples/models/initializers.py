"""PyTorch's default initial distribution of linear layers and convolutions."""

import math
from typing import Any

import jax
import jax.numpy as jnp

# Numbers drawn at least, and cut to a tensor's size: a key's first n are the same,
# however many are drawn, and a program for each shape compiles for half a second.
_DRAWN = 2**15


def uniform(fan_in: int) -> dict[str, Any]:
    """Uniform in plus or minus 1 / sqrt(fan-in), for weights and biases.

    Args:
      fan_in: the number of inputs of each output.

    Returns:
      Keyword arguments for ``nnx.Linear`` and ``nnx.Conv``.
    """
    bound = 1 / math.sqrt(fan_in)

    def init(
        key: jax.Array,
        shape: tuple[int, ...],
        dtype: jax.typing.DTypeLike = jnp.float32,
        out_sharding: Any = None,
    ) -> jax.Array:
        del out_sharding
        size = math.prod(shape)
        drawn = max(size, _DRAWN)
        flat = jax.random.uniform(key, (drawn,), dtype, -bound, bound)
        return flat[:size].reshape(shape)

    return {"kernel_init": init, "bias_init": init}
