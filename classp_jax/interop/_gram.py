"""Sums of directions: as they are kept, and their inputs in PyTorch's order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from classp_jax import _gram_sketch, _paths
from classp_jax.interop import _conversion, _layout

_Array: TypeAlias = np.ndarray[Any, Any]
# Of the largest element: what rounding may make of a product with itself.
_ROUNDING = 1e-3
_OF_WEIGHTS = (
    " A sum per weight, such as estimate_grad_sum makes, says nothing of directions:"
    " classp_jax.collect gets their sums from data."
)


def shape_of(s: Any) -> tuple[int, ...]:
    """Of a sum in full: (m, m) of m inputs, or (blocks, d, d) where it has several."""
    if isinstance(s, _gram_sketch.GramSketch):
        return (len(s.products),) * 2
    return tuple(s.shape[1:] if len(s) == 1 else s.shape)


def as_kept(path: str, array: Any, s: Any) -> Any:
    """A sum in full as ``s`` is kept."""
    is_sketch = isinstance(s, _gram_sketch.GramSketch)
    array = _paths.cast(path, array, s.trace.dtype if is_sketch else s.dtype)
    shape = shape_of(s)
    if array.shape != shape and (is_sketch or array.shape != s.shape):
        raise ValueError(
            f"{path} must have shape {shape}, of its inputs, got {array.shape}."
            + _OF_WEIGHTS
        )
    diagonal = np.diagonal(array, axis1=-2, axis2=-1)
    off = abs(array - np.swapaxes(array, -2, -1))
    if np.any(diagonal < 0) or np.any(off > _ROUNDING * np.max(abs(array), initial=0)):
        raise ValueError(
            f"{path} must be a sum of products, symmetric and with no value below 0 on"
            " its diagonal." + _OF_WEIGHTS
        )
    return _gram_sketch.of_sum(array, s) if is_sketch else array.reshape(s.shape)


def orders(
    entries: Sequence[_layout.Entry], params: Any, sums: Mapping[str, Any]
) -> dict[str, _Array]:
    """For each path, the row in JAX of each input in PyTorch's order.

    That is the order of the tensor's axes but that of its outputs, flattened.
    """
    if params is None:
        raise ValueError(
            "Sums of directions need params: the inputs of a convolution have another"
            " order in PyTorch, which depends on its window."
        )
    shapes = {path: tuple(p.shape) for path, p in _paths.by_path(params).items()}
    found = {}
    for paths, keys, tensor in entries:
        if tensor.to_jax is not None:
            raise ValueError(
                f"{', '.join(paths)} are made by functions of {', '.join(keys)}, which"
                " move weights: they can't say where its sum of directions goes."
            )
        (path,) = paths
        rows = math.prod(shapes.get(path, ())[:-1])
        blocks, height = (1, *shape_of(sums[path])[:-1])[-2:]
        if path not in shapes or not 0 <= blocks * height - rows < blocks:
            raise ValueError(
                f"{path} has sums of {blocks * height} inputs, which its array in"
                f" params must have; got shape {shapes.get(path)}."
            )
        order = rows_in_torch(keys[0], tensor, shapes[path])
        if blocks > 1 and np.any(np.diff(order) != 1):
            raise ValueError(
                f"{path} has {blocks} blocks of inputs (max_dim), which are others in"
                " PyTorch's order."
            )
        found[path] = order
    return found


def rows_in_torch(key: str, tensor: _layout.Tensor, shape: tuple[int, ...]) -> _Array:
    """The row in JAX of each input of a tensor, (...inputs, outputs) in JAX."""
    rows = np.arange(math.prod(shape[:-1]))
    if not tensor.is_kernel:
        return rows
    index = np.broadcast_to(rows.reshape(*shape[:-1], 1), shape)
    index = _conversion.to_torch_axes(key, tensor, index)
    order: _Array = np.moveaxis(index, 1 if tensor.transposed else 0, 0)[0]
    return order.reshape(-1)


def of_inputs(entries: Sequence[_layout.Entry]) -> list[_layout.Entry]:
    """The entries for sums of inputs, whose axes aren't those of a kernel."""
    return [e._replace(tensor=_layout.Tensor(e.tensor.key)) for e in entries]


def to_jax(path: str, array: _Array, order: _Array, s: Any) -> _Array:
    """A sum in full with PyTorch's order of inputs in JAX's."""
    shape = shape_of(s)
    if array.size != math.prod(shape):
        raise ValueError(
            f"{path} must have shape {shape}, of its inputs, got {array.shape}."
        )
    array = array.reshape(shape)
    if array.ndim > 2:
        return array
    new = np.empty_like(array)
    new[np.ix_(order, order)] = array
    return new


def to_torch(path: str, s: Any, order: _Array) -> _Array:
    """A sum in full with its inputs in PyTorch's order."""
    if isinstance(s, _gram_sketch.GramSketch):
        raise ValueError(
            f"{path} has a sketch of its sum, which is not enough to make the sum of:"
            " rank=None keeps it in full."
        )
    array = np.asarray(s).reshape(shape_of(s))
    return array if array.ndim > 2 else array[np.ix_(order, order)]
