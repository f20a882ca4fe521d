"""A model's weights, between a PyTorch ``state_dict`` and a JAX pytree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from classp_jax import _paths
from classp_jax.interop import _layout, _torch

if TYPE_CHECKING:
    import torch


def params_from_torch(
    state_dict: Mapping[str, torch.Tensor], layout: _layout.Layout, params: Any
) -> Any:
    """A JAX model's parameters with the values of a PyTorch model's.

    Args:
      state_dict: the PyTorch model's ``state_dict()``.
      layout: which tensor each array is.
      params: the JAX model's parameters, any pytree of arrays with the layout's paths:
        nested dictionaries, ``nnx.state(model, nnx.Param)``. Nothing but its
        structure, shapes, dtypes and placement counts.

    Returns:
      A pytree like ``params``, leaf by leaf of the same shape and dtype.

    Raises:
      ValueError: if a tensor is missing, unexpected or misshapen; it names the tensor.
      ImportError: if PyTorch isn't installed.

    Examples:
      >>> import jax.numpy as jnp
      >>> import torch
      >>> from classp_jax import interop
      >>> layout = interop.kernel_and_bias("dense", "fc")
      >>> params = {"dense": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}
      >>> state_dict = {
      ...     "fc.weight": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
      ...     "fc.bias": torch.tensor([7.0, 8.0]),
      ... }
      >>> params = interop.params_from_torch(state_dict, layout, params)
      >>> print(params["dense"]["kernel"])
      [[1. 4.]
       [2. 5.]
       [3. 6.]]
    """
    _paths.check_names(
        "tensor of the PyTorch model", [t.key for t in layout.values()], state_dict
    )
    arrays = {
        path: _layout.to_jax_axes(tensor, _torch.to_numpy(state_dict[tensor.key]))
        for path, tensor in layout.items()
    }
    return _paths.replace_leaves(params, arrays)


def params_to_torch(params: Any, layout: _layout.Layout) -> dict[str, torch.Tensor]:
    """The ``state_dict`` of a PyTorch model with a JAX model's weights.

    Args:
      params: the JAX model's parameters, as for :func:`params_from_torch`.
      layout: which tensor each array is.

    Returns:
      CPU tensors of the arrays' dtypes, copies, in the layout's order; for
      ``model.load_state_dict``, which checks their shapes.

    Raises:
      ValueError: if an array is missing, unexpected or, as far as the layout can tell,
        misshapen, or one of several arrays of one tensor (tied weights) differs from
        the others; it names the array.
      ImportError: if PyTorch isn't installed.
    """
    arrays = _paths.by_path(params)
    _paths.check_names("array of the JAX model", layout, arrays)
    converted: dict[str, np.ndarray[Any, Any]] = {}
    for path, tensor in layout.items():
        array = _layout.to_torch_axes(tensor, np.asarray(arrays[path]))
        tied = converted.setdefault(tensor.key, array)
        if tied is not array and not np.array_equal(tied, array):
            raise ValueError(
                f"{path} must equal the other arrays that are {tensor.key} in PyTorch."
            )
    return {key: _torch.to_tensor(array) for key, array in converted.items()}
