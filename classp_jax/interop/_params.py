"""Converts a model's weights between a PyTorch ``state_dict`` and a JAX pytree."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from classp_jax import _paths
from classp_jax.interop import _conversion, _layout, _torch

if TYPE_CHECKING:
    import torch


def params_from_torch(
    state_dict: Mapping[str, torch.Tensor],
    layout: _layout.Layout,
    params: Any,
    *,
    ignore: str | Sequence[str] = (),
) -> Any:
    """Converts the weights of a PyTorch model to the parameters of a JAX model.

    Args:
      state_dict: the PyTorch model's ``state_dict()``.
      layout: which PyTorch tensor each JAX array is.
      params: the JAX model's parameters, any pytree of arrays with the layout's paths,
        such as nested dictionaries or ``nnx.state(model, nnx.Param)``; with the
        statistics of batch norm, ``nnx.state(model, (nnx.Param, nnx.BatchStat))``. Its
        values aren't read, only structure, shapes, dtypes and placement.
      ignore: patterns (of :mod:`fnmatch`) of keys in ``state_dict`` that the layout may
        lack, such as buffers: ``("*.running_mean", "*.running_var",
        "*.num_batches_tracked")``.

    Returns:
      A pytree like ``params``, whose leaves have the same shapes and dtypes. Floats are
      rounded to the leaf's dtype; NaN and Inf are kept.

    Raises:
      ValueError: if a tensor is missing, unexpected or misshapen, tied weights differ,
        or a leaf's dtype can't hold a value: a complex or too large one, or a fraction
        in integers. The error names the tensor.
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
    entries = _layout.entries(layout)
    keys = dict.fromkeys(key for entry in entries for key in entry.keys)
    patterns = [ignore] if isinstance(ignore, str) else ignore
    given = [
        key
        for key in state_dict
        if key in keys or not any(fnmatch.fnmatchcase(key, p) for p in patterns)
    ]
    _paths.check_names("tensor of the PyTorch model", keys, given)
    tensors = {key: _torch.to_numpy(key, state_dict[key]) for key in keys}
    return _paths.replace_leaves(params, _conversion.to_jax(entries, tensors))


def params_to_torch(params: Any, layout: _layout.Layout) -> dict[str, torch.Tensor]:
    """Converts the parameters of a JAX model to the ``state_dict`` of a PyTorch model.

    Args:
      params: the JAX model's parameters, as for :func:`params_from_torch`.
      layout: which PyTorch tensor each JAX array is.

    Returns:
      A dictionary of CPU tensors, copies in the arrays' dtypes, in the layout's order.
      Pass it to ``model.load_state_dict``, which checks the shapes. To keep buffers
      that the layout lacks, pass ``{**model.state_dict(), **tensors}``.

    Raises:
      ValueError: if an array is missing, unexpected or, as far as the layout can tell,
        misshapen, or the arrays of one tensor (tied weights) differ. The error names
        the array.
      ImportError: if PyTorch isn't installed.
    """
    arrays = _paths.by_path(params)
    entries = _layout.entries(layout)
    paths = [path for entry in entries for path in entry.paths]
    _paths.check_names("array of the JAX model", paths, arrays)
    tensors = _conversion.to_torch(
        entries, {p: np.asarray(a) for p, a in arrays.items()}
    )
    return {key: _torch.to_tensor(key, array) for key, array in tensors.items()}
