"""Converts weights and gradient sums from and to PyTorch, and estimates such sums.

Everything returned has the structure of what it replaces. A tensor that is missing,
unexpected or misshapen is an error that names it. A function imports PyTorch when it
first needs it: ``pip install "classp_jax[verify]"``.
"""

from classp_jax.interop._grad_sum import with_grad_sum
from classp_jax.interop._layout import (
    CNN_LAYOUT,
    TRANSFORMER_LAYOUT,
    Layout,
    Tensor,
    kernel_and_bias,
    scale_and_bias,
)
from classp_jax.interop._params import params_from_torch, params_to_torch
from classp_jax.interop._second_moment import estimate_grad_sum
from classp_jax.interop._torch import load
from classp_jax.interop._torch_state import grad_sum_from_torch, grad_sum_to_torch

__all__ = [
    "CNN_LAYOUT",
    "TRANSFORMER_LAYOUT",
    "Layout",
    "Tensor",
    "estimate_grad_sum",
    "grad_sum_from_torch",
    "grad_sum_to_torch",
    "kernel_and_bias",
    "load",
    "params_from_torch",
    "params_to_torch",
    "scale_and_bias",
    "with_grad_sum",
]
