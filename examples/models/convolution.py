"""Convolutions, group norm and pooling, as the convolutional networks share them."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from examples.models.initializers import uniform
from examples.runner.layers import patches


def convolution(
    inputs: int, outputs: int, rngs: nnx.Rngs, *, size: int = 3, **options: Any
) -> nnx.Conv:
    """A convolution as PyTorch has it, with its default initial distribution.

    Args:
      inputs: channels.
      outputs: likewise.
      rngs: the stream ``params``.
      size: of the kernel, rows and columns, odd.
      **options: for ``nnx.Conv``, such as ``strides``. By default there is no bias,
        and as much padding as keeps the size of an image if the stride is 1.

    Returns:
      The layer.
    """
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        conv_general_dilated=_convolve,
        rngs=rngs,
        **uniform(fan_in=size**2 * inputs),
        **{"use_bias": False, "padding": size // 2} | options,
    )


def _convolve(
    images: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **kwargs: Any
) -> jax.Array:
    """``lax.conv_general_dilated``, without groups and dilation.

    In a loop XLA's CPU backend drops to a convolution many times slower than outside,
    and a matrix product over patches is the fastest of all there.
    """
    if jax.default_backend() != "cpu":
        return jax.lax.conv_general_dilated(images, kernel, strides, padding, **kwargs)
    rows = patches(images, kernel, strides, padding, **kwargs)
    outputs = kernel.shape[-1]
    # Two axes alone, so that XLA sees one large product.
    flat = rows.reshape(-1, rows.shape[-1]) @ kernel.reshape(-1, outputs)
    return flat.reshape(*rows.shape[:-1], outputs)


def group_norm(channels: int, groups: int, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """Group norm with PyTorch's epsilon, of (batch, height, width, channels).

    Unlike batch norm it has no running statistics, which each task would move and no
    optimizer protect.

    Args:
      channels: how many, a multiple of the groups.
      groups: into how many they are cut.
      rngs: the stream ``params``.

    Returns:
      The layer.

    References:
      Wu and He, Group Normalization, 2018, https://arxiv.org/abs/1803.08494
    """
    return nnx.GroupNorm(channels, groups, epsilon=1e-5, rngs=rngs)


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of every two by two pixels.

    XLA's CPU backend runs this reshape far faster, forwards and backwards, than the
    ``reduce_window`` of ``nnx.max_pool``.

    Args:
      x: (batch, height, width, channels), of even height and width.

    Returns:
      (batch, height / 2, width / 2, channels).
    """
    batch, height, width, channels = x.shape
    windows = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return jnp.max(windows, axis=(2, 4))
