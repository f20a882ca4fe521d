"""Layouts, which say for each JAX array which PyTorch tensor it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The PyTorch tensor that belongs to a JAX array, and how to convert it.

    Attributes:
      key: the tensor's key in the PyTorch model's ``state_dict``. Or a tuple of keys:
        those of equal tensors (tied weights), or those of ``to_jax`` and ``to_torch``.
      is_kernel: whether it is the weight of a linear layer or a convolution, which is
        ``(out, in, *window)`` in PyTorch and ``(*window, in, out)`` in JAX. Any other
        tensor is the same in both, unless functions are given.
      flattened: for the weight of a linear layer that reads a flattened image, the
        image's ``(channels, *window)``, the order in which PyTorch flattens it. JAX
        flattens ``(*window, channels)``.
      transposed: for the weight of a convolution, whether that is transposed.
        ``torch.nn.ConvTranspose2d`` has ``(in, out, *window)``; Flax's
        ``ConvTranspose`` has ``(*window, in, out)`` and reverses the window. With
        ``transpose_kernel=True`` Flax has the axes of a convolution: pass False. None
        is for a convolution with different numbers of inputs and outputs; if they are
        the same, pass False for a convolution.
      to_jax: a function from the NumPy array of each key to the array of the path, or
        to a sequence of arrays, one for each of several paths (:data:`Layout`).
      to_torch: the reverse function. Both convert weights and gradient sums, so they
        should only move numbers. If they compute, give the sums a layout of their own:
        PyTorch's LSTM, for one, adds two biases where Flax's has one.

    Raises:
      ValueError: if the attributes contradict each other.

    Examples:
      The packed weights of ``torch.nn.MultiheadAttention``, for Flax's three kernels of
      shape ``(features, heads, features of a head)``:

      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> import torch
      >>> from classp_jax import interop
      >>> def to_jax(packed):
      ...     return [w.T.reshape(4, 2, 2) for w in np.split(packed, 3)]
      >>> def to_torch(*kernels):
      ...     return np.concatenate([k.reshape(4, 4).T for k in kernels])
      >>> packed = interop.Tensor("in_proj_weight", to_jax=to_jax, to_torch=to_torch)
      >>> layout = {("query.kernel", "key.kernel", "value.kernel"): packed}
      >>> zeros = {"kernel": jnp.zeros((4, 2, 2))}
      >>> params = {"query": zeros, "key": zeros, "value": zeros}
      >>> state_dict = torch.nn.MultiheadAttention(4, 2, bias=False).state_dict()
      >>> params = interop.params_from_torch(
      ...     state_dict, layout, params, ignore="out_proj.*"
      ... )
      >>> tensors = interop.params_to_torch(params, layout)
      >>> torch.equal(tensors["in_proj_weight"], state_dict["in_proj_weight"])
      True
    """

    key: str | tuple[str, ...]
    is_kernel: bool = False
    flattened: tuple[int, ...] | None = None
    transposed: bool | None = None
    to_jax: Callable[..., Any] | None = None
    to_torch: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if not self.key:
            raise ValueError("A tensor needs a key.")
        if self.flattened is not None and not self.is_kernel:
            raise ValueError(f"{self.key} is flattened, which only a kernel can be.")
        if self.transposed is not None and (not self.is_kernel or self.flattened):
            raise ValueError(
                f"{self.key} is transposed or not, as only a convolution's kernel is."
            )
        if (self.to_jax is None) != (self.to_torch is None):
            raise ValueError(f"{self.key} needs both to_jax and to_torch.")
        if self.to_jax is not None and self.is_kernel:
            raise ValueError(f"{self.key} is a kernel, which has functions already.")


Layout: TypeAlias = Mapping[str, Tensor] | Mapping[str | tuple[str, ...], Tensor]
"""The PyTorch tensor of each path of the JAX parameters, such as ``"conv1.kernel"``.

A tuple of paths is for arrays that one function makes together.
"""


class Entry(NamedTuple):
    """Of a layout: the arrays of some paths, which are the tensors of some keys."""

    paths: tuple[str, ...]
    keys: tuple[str, ...]
    tensor: Tensor


def kernel_and_bias(
    path: str,
    key: str | None = None,
    *,
    flattened: tuple[int, ...] | None = None,
    transposed: bool | None = None,
) -> dict[str, Tensor]:
    """Makes the layout of a linear layer or a convolution with a bias.

    Args:
      path: the layer's path in the JAX parameters.
      key: the layer's name in PyTorch; by default ``path``.
      flattened: as for :class:`Tensor`.
      transposed: as for :class:`Tensor`: True for a transposed convolution. Pass False
        for a convolution with as many inputs as outputs: its weight has the same shape
        as that of a transposed one.

    Returns:
      The entries of ``kernel`` and ``bias``; merge them into a :data:`Layout`.

    Examples:
      >>> from classp_jax.interop import kernel_and_bias
      >>> for path, tensor in kernel_and_bias("dense", "fc").items():
      ...     print(path, tensor.key, tensor.is_kernel)
      dense.kernel fc.weight True
      dense.bias fc.bias False
    """
    key = path if key is None else key
    return {
        f"{path}.kernel": Tensor(
            f"{key}.weight", True, flattened=flattened, transposed=transposed
        ),
        f"{path}.bias": Tensor(f"{key}.bias"),
    }


def scale_and_bias(path: str, key: str | None = None) -> dict[str, Tensor]:
    """Makes the layout of a normalisation layer with a scale and a bias.

    Args:
      path: the layer's path in the JAX parameters.
      key: the layer's name in PyTorch; by default ``path``.

    Returns:
      The entries of ``scale`` and ``bias``; merge them into a :data:`Layout`.
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
"""The convolutional network of the paper's Section 4.1: ``examples/models/cnn.py``."""

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
"""The Transformer of the paper's Section 4.2: ``examples/models/transformer.py``."""


def entries(layout: Layout) -> list[Entry]:
    """The entries of a layout; a ``ValueError`` where a path has two."""
    found, seen = [], set()
    for paths, tensor in layout.items():
        paths = (paths,) if isinstance(paths, str) else paths
        keys = (tensor.key,) if isinstance(tensor.key, str) else tensor.key
        if twice := [path for path in paths if path in seen]:
            raise ValueError(f"The layout has two entries for {', '.join(twice)}.")
        if len(paths) > 1 and tensor.to_jax is None:
            raise ValueError(
                f"{', '.join(paths)} are made of {', '.join(keys)} together, which"
                " needs its functions to_jax and to_torch."
            )
        seen |= set(paths)
        found.append(Entry(paths, keys, tensor))
    return found
