"""Runs a problem in both frameworks and measures how far they come apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import torch

from classp_jax import _alias, _diagnostics, _factored, _paths
from classp_jax.verify._distance import Distance
from classp_jax.verify._problems import Problem, Twin
from classp_jax.verify._torch_optimizer import PhasedOptimizer

READINGS = {
    "algorithm1": _alias.classp,
    "equation1": _alias.classp_equation1,
    "released": _alias.classp_released,
}


class Comparison(NamedTuple):
    """The distances of weights and accumulators, by JAX's names.

    Attributes:
      weights: a distance for each tensor.
      accumulators: likewise; empty where the PyTorch optimizer keeps none.
      moved: whether any weight is not what it was.
    """

    weights: dict[str, Distance]
    accumulators: dict[str, Distance]
    moved: bool


def compare(
    problem: Problem,
    twin: Twin,
    optimizer: PhasedOptimizer,
    *,
    reading: str,
    static: dict[str, Any],
    hyperparameters: Sequence[dict[str, Any]],
    lockstep: bool,
    steps: Iterable[int],
    decay_from: int,
    accumulator: str,
    tolerance: float,
) -> Comparison:
    """Steps both optimizers side by side.

    Args:
      problem: the problem in JAX.
      twin: the problem in PyTorch, at the same weights.
      optimizer: the PyTorch optimizer of the twin's parameters.
      reading: which of CLASSP's readings JAX computes.
      static: those of CLASSP's arguments that the compiled step depends on.
      hyperparameters: its others, before and after the decay opens.
      lockstep: whether both get the gradients that JAX computes, or each its own.
      steps: 0, 1, 2 and so on; a progress bar may sit in it.
      decay_from: the step, from 0, at which the decay opens.
      accumulator: the key of the accumulator in the PyTorch optimizer's state.
      tolerance: the relative difference above which a step counts as over.

    Returns:
      The distances after every step.
    """

    @jax.jit
    def jax_step(
        params: Any, opt_state: Any, grads: Any, hyperparameters: dict[str, Any]
    ) -> tuple[Any, Any]:
        update = READINGS[reading](**static, **hyperparameters).update
        updates, opt_state = update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    jax_grad = jax.jit(jax.grad(problem.loss))
    params = problem.params
    opt_state = READINGS[reading](0.0, **static).init(params)
    shapes = {name: np.shape(leaf) for name, leaf in _paths.by_path(params).items()}
    weights = {name: Distance(shape) for name, shape in shapes.items()}
    accumulators = {name: Distance(shape) for name, shape in shapes.items()}
    found_accumulator = False

    for step in steps:
        phase = int(step >= decay_from)
        batch = problem.batch(step)
        if lockstep and problem.stream is not None:
            grads = {name: stream[step] for name, stream in problem.stream.items()}
        else:
            grads = jax_grad(params, batch)
        if lockstep:
            for name, gradient in _paths.by_path(grads).items():
                twin.parameters[name].grad = torch.tensor(np.asarray(gradient))
        else:
            for parameter in twin.parameters.values():
                parameter.grad = None
            torch.autograd.backward(twin.loss(batch))
        params, opt_state = jax_step(params, opt_state, grads, hyperparameters[phase])
        optimizer.step(phase)

        expected = twin.to_jax(twin.parameters)
        for name, leaf in _paths.by_path(params).items():
            weights[name].add(np.asarray(leaf), expected[name], tolerance)
        sums = {
            name: optimizer.accumulator(parameter, accumulator)
            for name, parameter in twin.parameters.items()
        }
        found_accumulator |= any(value is not None for value in sums.values())
        # A tensor whose first step is still to come has no state yet.
        expected = twin.to_jax(
            {
                name: torch.zeros_like(twin.parameters[name]) if s is None else s
                for name, s in sums.items()
            }
        )
        (accumulator_state,) = _diagnostics.accumulators(opt_state)
        for name, s in _diagnostics.sums_by_path(accumulator_state).items():
            actual = np.asarray(_factored.of_each_weight(s, expected[name].dtype))
            accumulators[name].add(actual, expected[name], tolerance)
    moved = any(
        np.any(np.asarray(new) != np.asarray(old))
        for new, old in zip(
            jax.tree.leaves(params), jax.tree.leaves(problem.params), strict=True
        )
    )
    return Comparison(weights, accumulators if found_accumulator else {}, moved)
