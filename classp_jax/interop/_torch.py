"""Everything that needs PyTorch itself: its import, its tensors, its files."""

from __future__ import annotations

import os
import pickle
import re
import warnings
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    import torch

# By the names that both frameworks give them; NumPy's own types don't include these.
_SHORT_FLOATS = (
    "bfloat16",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
)


def load(path: str | os.PathLike[str]) -> Any:
    """Reads a file that ``torch.save`` wrote, onto the CPU.

    It reads only tensors and plain containers. It refuses a file with any other pickled
    object, since that could run code.

    Args:
      path: the file of a model's or an optimizer's ``state_dict``.

    Returns:
      The saved object.

    Raises:
      ImportError: if PyTorch isn't installed.
      OSError: if there is no such file, or it can't be read.
      pickle.UnpicklingError: if the file is damaged, or holds anything but tensors and
        containers, for instance a whole model instead of its ``state_dict``.
    """
    torch = import_torch()
    try:
        with warnings.catch_warnings():  # About a file that is then refused.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # A file of anything makes the reader fail in any way.
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"holds a {found[1]}" if found else "isn't a whole file of torch.save"
    # Without what PyTorch says: many lines, and an invitation to run the file's code.
    raise pickle.UnpicklingError(
        f"{os.fspath(path)!r} {what}; interop.load reads tensors in plain containers,"
        " as torch.save(model.state_dict(), path) writes them."
    )


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


def to_numpy(name: str, tensor: Any) -> np.ndarray[Any, Any]:
    """The tensor's values, in its dtype; or an error with its name."""
    torch = import_torch()
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(tensor).__name__}.")
    try:
        values = tensor.detach().cpu()
        if values.layout != torch.strided:
            values = values.to_dense()
        dtype = str(values.dtype).removeprefix("torch.")
        if dtype in _SHORT_FLOATS:
            bits = (torch.uint8, torch.int16)[values.itemsize - 1]
            as_bits: np.ndarray[Any, Any] = values.contiguous().view(bits).numpy()
            return as_bits.view(getattr(jnp, dtype))
        return np.asarray(values.resolve_conj().resolve_neg().numpy())
    except (AttributeError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{name}, of {tensor.dtype} on {tensor.device}, has no NumPy array: {error}"
        ) from error


def to_tensor(name: str, array: np.ndarray[Any, Any]) -> torch.Tensor:
    """A tensor with a contiguous copy of the values, in their dtype."""
    torch = import_torch()
    array = np.array(array, order="C")
    try:
        if array.dtype.name in _SHORT_FLOATS:
            bits = torch.from_numpy(array.view(f"i{array.itemsize}"))
            return bits.view(getattr(torch, array.dtype.name))  # type: ignore[no-any-return]
        return torch.from_numpy(array)  # type: ignore[no-any-return]
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{name} is {array.dtype}, which PyTorch lacks.") from error
