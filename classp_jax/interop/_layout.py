"""Which PyTorch tensor each JAX array is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A PyTorch tensor, as a JAX array knows it.

    Attributes:
      key: its key in the PyTorch model's ``state_dict``; or a tuple of keys, of equal
        tensors (tied weights), or of those that the functions below take and return.
      is_kernel: whether it is the weight of a linear layer or a convolution, which
        PyTorch keeps as ``(out, in, *window)`` and JAX as ``(*window, in, out)``. Any
        other tensor is the same in both, unless functions are given.
      flattened: for the weight of a linear layer that reads a flattened image, the
        image's ``(channels, *window)``, the order in which PyTorch flattens it; JAX
        flattens ``(*window, channels)``.
      transposed: for the weight of a convolution, whether it is a transposed one,
        ``torch.nn.ConvTranspose2d`` in PyTorch, which keeps ``(in, out, *window)``, and
        Flax's ``ConvTranspose`` in JAX, which keeps ``(*window, in, out)`` and turns
        the window round. Where Flax's has ``transpose_kernel=True``, its axes are a
        convolution's: ``False``. None means a convolution whose shape proves it; where
        the first two axes are of one length, a convolution is ``False``.
      to_jax: a function from the NumPy array of each key to the array of the path, or
        to a sequence of them, of each of several paths (:data:`Layout`).
      to_torch: the reverse. Both serve weights and sums of gradients alike, so they
        should only move numbers. Where they compute (PyTorch's LSTM has two biases that
        are added, Flax's one), give the sums a layout of their own.

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
"""The PyTorch tensor at each path of the JAX parameters, ``"conv1.kernel"``.

Several paths, as a tuple, are of arrays that its functions make together.
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
    """The layout of a linear layer or a convolution with a bias.

    Args:
      path: the layer's path in the JAX parameters.
      key: the layer's name in PyTorch; by default ``path``.
      flattened: as for :class:`Tensor`.
      transposed: as for :class:`Tensor`: True for a transposed convolution. A
        convolution with as many inputs as outputs needs ``False``, since a transposed
        one's weight would have the same shape and other numbers.

    Returns:
      The entries of ``kernel`` and ``bias``, to be merged into a :data:`Layout`.

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
"""The convolutional network of Section 4.1: ``examples/models/cnn.py`` and its twin."""

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
"""Section 4.2's text classifier: ``examples/models/transformer.py`` and its twin."""


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
