"""PyTorch, timed beside JAX: on which device, and until it is done."""

import jax
import torch


def torch_device() -> str | None:
    """PyTorch's name of the device that JAX computes on, None if it can't use it."""
    backend = jax.default_backend()
    if backend == "gpu":
        return "cuda" if torch.cuda.is_available() else None
    return "cpu" if backend == "cpu" else None


def wait_for_torch() -> None:
    """Returns when PyTorch has computed what it was told to."""
    if torch_device() == "cuda":
        torch.cuda.synchronize()
