"""The sums in a PyTorch optimizer's state, as JAX has them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from classp_jax import _states
from classp_jax.interop import _grad_sum, _gram, _layout, _torch
from classp_jax.verify._problems import Twin
from classp_jax.verify._torch_optimizer import ScheduledOptimizer


class Accumulators(NamedTuple):
    """Where the sums of a twin's parameters are.

    Attributes:
      twin: the problem in PyTorch.
      optimizer: its optimizer.
      keys: the keys that the sum of a parameter may have in the optimizer's state.
      sums: JAX's, by its names.
      orders: of sums of directions, those of their inputs; else empty.
    """

    twin: Twin
    optimizer: ScheduledOptimizer
    keys: Sequence[str]
    sums: Mapping[str, Any]
    orders: Mapping[str, np.ndarray]

    def in_jax(self, first: float) -> tuple[dict[str, np.ndarray], bool]:
        """Arrays by JAX's names, in its layout, and whether there is any sum.

        That of a tensor whose first step is still to come has no state yet: all of it
        is ``first``.
        """
        parameters = self.twin.parameters
        if not self.orders:
            found = {
                k: self.optimizer.accumulator(p, self.keys)
                for k, p in parameters.items()
            }
            tensors = {
                key: torch.full_like(parameters[key], first) if s is None else s
                for key, s in found.items()
            }
            return self.twin.to_jax(tensors), any(s is not None for s in found.values())
        arrays, is_any = {}, False
        for (path,), (key, *_), _ in _layout.entries(self.twin.layout):
            s = self.sums[path]
            size = math.prod(_gram.shape_of(s))
            theirs = self.optimizer.accumulator(parameters[key], self.keys, size)
            arrays[path] = np.zeros(s.shape)
            if theirs is not None:
                is_any = True
                array = _torch.to_numpy(key, theirs)
                array = _gram.to_jax(path, array, self.orders[path], s)
                arrays[path] = array.reshape(s.shape)
        return arrays, is_any


def accumulators_of(
    twin: Twin,
    optimizer: ScheduledOptimizer,
    keys: Sequence[str],
    params: Any,
    opt_state: Any,
) -> Accumulators:
    """Those of a twin's parameters, beside JAX's parameters and state."""
    sums, orders = _grad_sum.grad_sums(opt_state), {}
    if _states.grams(opt_state):
        orders = _gram.orders(_layout.entries(twin.layout), params, sums)
    return Accumulators(twin, optimizer, keys, sums, orders)
