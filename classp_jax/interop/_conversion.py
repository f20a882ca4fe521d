"""Converts arrays between PyTorch's and JAX's names and axes, as a layout says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from classp_jax.interop._layout import Entry, Tensor

_Array: TypeAlias = np.ndarray[Any, Any]


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
            array = to_torch_axes(keys[0], tensor, arrays[paths[0]])
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


def to_torch_axes(key: str, tensor: Tensor, array: _Array) -> _Array:
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
