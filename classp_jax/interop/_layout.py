"""Which PyTorch tensor each JAX array is, and how its axes move."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A PyTorch tensor, as a JAX array knows it.

    Attributes:
      key: its key in the PyTorch model's ``state_dict``.
      is_kernel: whether it is the weight of a linear layer or a convolution, which
        PyTorch keeps as ``(out, in, *window)`` and JAX as ``(*window, in, out)``. Any
        other tensor is the same in both.
      flattened: for the weight of a linear layer that reads a flattened image, the
        image's ``(channels, *window)``, the order in which PyTorch flattens it; JAX
        flattens ``(*window, channels)``.

    Raises:
      ValueError: if ``flattened`` is given for a tensor that is no kernel.
    """

    key: str
    is_kernel: bool = False
    flattened: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.flattened is not None and not self.is_kernel:
            raise ValueError(f"{self.key} is flattened, which only a kernel can be.")


Layout: TypeAlias = Mapping[str, Tensor]
"""The PyTorch tensor at each path of the JAX parameters, ``"conv1.kernel"``."""


def kernel_and_bias(
    path: str, key: str | None = None, *, flattened: tuple[int, ...] | None = None
) -> dict[str, Tensor]:
    """The layout of a linear layer or a convolution with a bias.

    Args:
      path: the layer's path in the JAX parameters.
      key: the layer's name in PyTorch; by default ``path``.
      flattened: as for :class:`Tensor`.

    Returns:
      The entries of ``kernel`` and ``bias``, to be merged into a :data:`Layout`.

    Examples:
      >>> from classp_jax.interop import kernel_and_bias
      >>> for path, tensor in kernel_and_bias("dense", "fc").items():
      ...     print(path, tensor)
      dense.kernel Tensor(key='fc.weight', is_kernel=True, flattened=None)
      dense.bias Tensor(key='fc.bias', is_kernel=False, flattened=None)
    """
    key = path if key is None else key
    return {
        f"{path}.kernel": Tensor(f"{key}.weight", is_kernel=True, flattened=flattened),
        f"{path}.bias": Tensor(f"{key}.bias"),
    }


def scale_and_bias(path: str, key: str | None = None) -> dict[str, Tensor]:
    """The layout of a normalisation layer with a scale and a bias.

    Args:
      path: the layer's path in the JAX parameters.
      key: the layer's name in PyTorch; by default ``path``.

    Returns:
      The entries of ``scale`` and ``bias``, to be merged into a :data:`Layout`.
    """
    key = path if key is None else key
    return {
        f"{path}.scale": Tensor(f"{key}.weight"),
        f"{path}.bias": Tensor(f"{key}.bias"),
    }


CNN_LAYOUT: Layout = {
    **kernel_and_bias("conv1"),
    **kernel_and_bias("conv2"),
    **kernel_and_bias("dense1", "fc1", flattened=(64, 12, 12)),
    **kernel_and_bias("dense2", "fc2"),
}
"""The convolutional network of Section 4.1: ``examples/cnn.py`` and its twin."""

TRANSFORMER_LAYOUT: Layout = {
    "embedding": Tensor("embedding.weight"),
    **scale_and_bias("norm"),
    "encoder.in_proj.kernel": Tensor(
        "encoder.self_attn.in_proj_weight", is_kernel=True
    ),
    "encoder.in_proj.bias": Tensor("encoder.self_attn.in_proj_bias"),
    **kernel_and_bias("encoder.out_proj", "encoder.self_attn.out_proj"),
    **kernel_and_bias("encoder.dense1", "encoder.linear1"),
    **kernel_and_bias("encoder.dense2", "encoder.linear2"),
    **scale_and_bias("encoder.norm1"),
    **scale_and_bias("encoder.norm2"),
    **kernel_and_bias("classifier"),
}
"""The text classifier of Section 4.2: ``examples/transformer.py`` and its twin."""


def to_jax_axes(tensor: Tensor, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A view of PyTorch's ``array`` in the order of JAX's axes."""
    if not tensor.is_kernel:
        return array
    _check_kernel(tensor, array.shape, array.shape[1:])
    if tensor.flattened is None:
        return array.transpose(*range(2, array.ndim), 1, 0)
    image = array.reshape(len(array), *tensor.flattened)
    return image.transpose(*range(2, image.ndim), 1, 0).reshape(-1, len(array))


def to_torch_axes(tensor: Tensor, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A view of JAX's ``array`` in the order of PyTorch's axes."""
    if not tensor.is_kernel:
        return array
    _check_kernel(tensor, array.shape, array.shape[:-1])
    if tensor.flattened is None:
        return array.transpose(-1, -2, *range(array.ndim - 2))
    channels, *window = tensor.flattened
    image = array.reshape(*window, channels, array.shape[-1])
    outputs_first = image.transpose(-1, -2, *range(image.ndim - 2))
    return outputs_first.reshape(array.shape[-1], -1)


def _check_kernel(
    tensor: Tensor, shape: tuple[int, ...], inputs: tuple[int, ...]
) -> None:
    if len(shape) < 2:
        raise ValueError(
            f"{tensor.key} is a kernel, with two axes or more; got shape {shape}."
        )
    flattened = tensor.flattened
    if flattened is not None and inputs != (math.prod(flattened),):
        raise ValueError(
            f"{tensor.key} reads a flattened {flattened}, so it has two axes and"
            f" {math.prod(flattened)} inputs; got shape {shape}."
        )
