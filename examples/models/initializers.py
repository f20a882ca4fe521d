"""PyTorch's default initial distribution of linear layers and convolutions."""

import math
from typing import Any

import jax
import jax.numpy as jnp


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
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return {"kernel_init": init, "bias_init": init}
