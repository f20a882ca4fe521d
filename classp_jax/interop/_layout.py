"""Which PyTorch tensor each JAX array is, and how its axes move."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

_Array: TypeAlias = np.ndarray[Any, Any]


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


def to_jax(
    entries: Iterable[Entry], tensors: Mapping[str, _Array]
) -> dict[str, _Array]:
    """The JAX array of each path, from the PyTorch arrays by key.

    Of tied tensors one is enough.
    """
    arrays: dict[str, _Array] = {}
    for paths, keys, tensor in entries:
        inputs = {key: tensors[key] for key in keys if key in tensors}
        if tensor.to_jax is not None:
            arrays |= _call("to_jax", tensor.to_jax, inputs, paths)
            continue
        key, array = next(iter(inputs.items()))
        for other in inputs:
            if not _equal(array, inputs[other]):
                raise ValueError(
                    f"{other} must equal {key}, since both are {paths[0]} in JAX."
                )
        arrays[paths[0]] = _to_jax_axes(key, tensor, array)
    return arrays


def to_torch(
    entries: Iterable[Entry], arrays: Mapping[str, _Array], *, estimated: bool = False
) -> dict[str, _Array]:
    """The PyTorch array of each key, from the JAX arrays by path.

    Those of one key must be equal or, where ``estimated``, but for rounding.
    """
    tensors: dict[str, _Array] = {}
    made_of: dict[str, str] = {}
    for paths, keys, tensor in entries:
        inputs = {path: arrays[path] for path in paths}
        if tensor.to_torch is not None:
            outputs = _call("to_torch", tensor.to_torch, inputs, keys)
        else:
            array = _to_torch_axes(keys[0], tensor, arrays[paths[0]])
            outputs = dict.fromkeys(keys, array)
        for key, array in outputs.items():
            first = made_of.setdefault(key, ", ".join(paths))
            if not _equal(array, tensors.setdefault(key, array), estimated):
                raise ValueError(
                    f"{', '.join(paths)} must equal {first}, since both are {key} in"
                    " PyTorch."
                )
    return tensors


def _call(
    name: str,
    function: Callable[..., Any],
    inputs: Mapping[str, _Array],
    outputs: tuple[str, ...],
) -> dict[str, _Array]:
    """The arrays that a function of the user's makes, or an error that names them."""
    try:
        result = function(*inputs.values())
        arrays = [np.asarray(a) for a in ([result] if len(outputs) == 1 else result)]
        if len(arrays) != len(outputs):
            raise ValueError(f"it returned {len(arrays)} arrays")
    except Exception as error:
        shapes = ", ".join(f"{key} {array.shape}" for key, array in inputs.items())
        raise ValueError(
            f"{name} must return an array for each of {', '.join(outputs)}, from"
            f" {shapes}: {error}."
        ) from error
    return dict(zip(outputs, arrays, strict=True))


def _equal(x: _Array, y: _Array, estimated: bool = False) -> bool:
    """Whether all values are the same, NaN included."""
    if x is y or x.shape != y.shape:
        return x is y
    same = (x == y) | ((x != x) & (y != y))
    if estimated:
        info = jnp.finfo(x.dtype)
        same |= abs(x - y) <= 8 * info.eps * abs(x) + info.tiny
    return bool(np.all(same))


def _to_jax_axes(key: str, tensor: Tensor, array: _Array) -> _Array:
    """A view of PyTorch's ``array`` in the order of JAX's axes."""
    if not tensor.is_kernel:
        return array
    _check_kernel(key, tensor, array.shape, array.shape[1:], array.shape[:2])
    if tensor.transposed:
        array = array.transpose(*range(2, array.ndim), 0, 1)
        return np.flip(array, tuple(range(array.ndim - 2)))
    if tensor.flattened is None:
        return array.transpose(*range(2, array.ndim), 1, 0)
    image = array.reshape(len(array), *tensor.flattened)
    return image.transpose(*range(2, image.ndim), 1, 0).reshape(-1, len(array))


def _to_torch_axes(key: str, tensor: Tensor, array: _Array) -> _Array:
    """A view of JAX's ``array`` in the order of PyTorch's axes."""
    if not tensor.is_kernel:
        return array
    _check_kernel(key, tensor, array.shape, array.shape[:-1], array.shape[-2:])
    if tensor.transposed:
        array = np.flip(array, tuple(range(array.ndim - 2)))
        return array.transpose(-2, -1, *range(array.ndim - 2))
    if tensor.flattened is None:
        return array.transpose(-1, -2, *range(array.ndim - 2))
    channels, *window = tensor.flattened
    image = array.reshape(*window, channels, array.shape[-1])
    outputs_first = image.transpose(-1, -2, *range(image.ndim - 2))
    return outputs_first.reshape(array.shape[-1], -1)


def _check_kernel(
    key: str,
    tensor: Tensor,
    shape: tuple[int, ...],
    inputs: tuple[int, ...],
    channels: tuple[int, ...],
) -> None:
    if len(shape) < 2:
        raise ValueError(
            f"{key} is a kernel, with two axes or more; got shape {shape}."
        )
    flattened = tensor.flattened
    if flattened is not None and inputs != (math.prod(flattened),):
        raise ValueError(
            f"{key} reads a flattened {flattened}, so it has two axes and"
            f" {math.prod(flattened)} inputs; got shape {shape}."
        )
    if tensor.transposed and len(shape) < 3:
        raise ValueError(f"{key} is transposed, so it has a window; got shape {shape}.")
    if tensor.transposed is None and len(shape) > 2 and len(set(channels)) == 1:
        raise ValueError(
            f"{key} has shape {shape}, from which a convolution and a transposed one"
            " can't be told apart: say transposed=False or transposed=True."
        )
