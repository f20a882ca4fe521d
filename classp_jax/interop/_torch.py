"""All that needs PyTorch itself: its import, its tensors, its files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    import torch


def load(path: str | os.PathLike[str]) -> Any:
    """Reads what ``torch.save`` wrote, onto the CPU.

    Only tensors and plain containers are read; a file with any other pickled object,
    whose code would run, is refused.

    Args:
      path: the file, of a model's or an optimizer's ``state_dict``.

    Returns:
      What was saved.

    Raises:
      ImportError: if PyTorch isn't installed.
      pickle.UnpicklingError: if the file holds anything but tensors and containers.
    """
    return import_torch().load(path, map_location="cpu", weights_only=True)


def import_torch() -> Any:
    """PyTorch, or an error that says how to install it."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "classp_jax.interop reads and writes PyTorch tensors, and PyTorch isn't"
            ' installed: pip install "classp_jax[verify]"'
        ) from error
    return torch


def to_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The tensor's values, in its dtype."""
    torch = import_torch()
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # NumPy's own types don't include it.
        bits: np.ndarray[Any, Any] = tensor.contiguous().view(torch.int16).numpy()
        return bits.view(jnp.bfloat16)
    return np.asarray(tensor.numpy())


def to_tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """A tensor with a contiguous copy of the values, in their dtype."""
    torch = import_torch()
    array = np.array(array, order="C")
    if array.dtype == jnp.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)  # type: ignore[no-any-return]
    return torch.from_numpy(array)  # type: ignore[no-any-return]
