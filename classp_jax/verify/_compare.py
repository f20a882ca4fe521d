"""Runs a problem in both frameworks and measures how far they come apart."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import torch

from classp_jax import _paths, _sums
from classp_jax.interop import _grad_sum
from classp_jax.verify._accumulators import accumulators_of
from classp_jax.verify._distance import Distance
from classp_jax.verify._problems import Problem, Twin, to_tensor
from classp_jax.verify._readings import READINGS
from classp_jax.verify._schedule import Schedule
from classp_jax.verify._torch_optimizer import InputError, ScheduledOptimizer

# Of most steps: PyTorch reuses a gradient's memory, unless told to let it go.
_FRESH_EVERY = 5


class Comparison(NamedTuple):
    """The distances of weights and accumulators, by JAX's names.

    Attributes:
      weights: a distance for each tensor.
      accumulators: likewise; empty where the PyTorch optimizer keeps none.
      moved: whether any weight is not what it was.
      begins_at_eps: whether the accumulators hold eps from the start.
      faults: what the PyTorch optimizer did that no right one does, a sentence each.
    """

    weights: dict[str, Distance]
    accumulators: dict[str, Distance]
    moved: bool
    begins_at_eps: bool
    faults: list[str]

    @property
    def over_tolerance(self) -> set[str]:
        """The tensors of which something was over the tolerance."""
        distances = [*self.weights.items(), *self.accumulators.items()]
        return {name for name, d in distances if d.first_over is not None}

    @property
    def differs(self) -> bool:
        """Whether anything was over it, or the PyTorch optimizer did anything wrong."""
        return bool(self.over_tolerance or self.faults)


def compare(
    problem: Problem,
    twin: Twin,
    optimizer: ScheduledOptimizer,
    *,
    reading: str,
    static: dict[str, Any],
    schedule: Schedule,
    groups: Sequence[Sequence[str]],
    lockstep: bool,
    steps: Iterable[int],
    accumulators: Sequence[str],
    tolerances: Mapping[str, tuple[float, float]],
) -> Comparison:
    """Steps both optimizers side by side.

    Args:
      problem: the problem in JAX.
      twin: the problem in PyTorch, at the same weights.
      optimizer: the PyTorch optimizer of the twin's parameters.
      reading: the name of what JAX computes, in :data:`READINGS`.
      static: those of its arguments that the compiled step depends on, and that
        all groups share.
      schedule: its others, of each group.
      groups: the names of each group's tensors.
      lockstep: whether both get the gradients that JAX computes, or each its own.
      steps: 0, 1, 2 and so on; a progress bar may sit in it.
      accumulators: the keys that the accumulator may have in the PyTorch optimizer's
        state.
      tolerances: for each tensor, the relative differences of its weight and of its
        accumulator above which a step counts as over.

    Returns:
      The distances after every step.
    """
    # What is the same at all steps, the compiled step of a group may depend on.
    held = tuple(
        tuple(
            (n, group[n][0]) for n in READINGS[reading].of_group if _is_held(group[n])
        )
        for group in schedule
    )
    names = tuple(map(tuple, groups))
    jax_init, jax_step = _jax_optimizer(reading, tuple(static.items()), held, names)

    def at(step: int) -> list[dict[str, Any]]:
        return [
            {n: values[step] for n, values in group.items() if n not in dict(of_step)}
            for group, of_step in zip(schedule, held, strict=True)
        ]

    params = problem.params
    opt_state = jax_init(params, at(0))
    shapes = {name: np.shape(leaf) for name, leaf in _paths.by_path(params).items()}
    weights = {k: Distance(shape, tolerances[k][0]) for k, shape in shapes.items()}
    theirs = accumulators_of(twin, optimizer, accumulators, params, opt_state)
    # AdaGrad's accumulator begins with what CLASSP adds to it.
    eps = schedule[0].get("eps", [])
    beginnings = [0.0, eps[0]] if _is_held(eps) else [0.0]
    sums_from = [
        {
            name: Distance(_grad_sum.shape_of(s), tolerances[name][1])
            for name, s in theirs.sums.items()
        }
        for _ in beginnings
    ]
    found_accumulator = False
    faults: list[str] = []

    for step in steps:
        batch = problem.batch(step)
        if lockstep and problem.stream is not None:
            given = {name: stream[step] for name, stream in problem.stream.items()}
            # To every reading, no gradient is one of 0, unless its sum forgets.
            grads = {
                name: np.zeros_like(params[name]) if g is None else g
                for name, g in given.items()
            }
            if "memory" in static:
                given = grads
        else:
            grads = problem.grad(params, batch)
            given = _paths.by_path(grads)
        if lockstep:
            tensors = _write(twin, given, step)
        else:
            for parameter in twin.parameters.values():
                parameter.grad = None
            torch.autograd.backward(twin.loss(batch))
        params, opt_state, sums = jax_step(params, opt_state, grads, at(step))
        try:
            optimizer.step(step)
        except InputError as error:
            if step == 0 and not (lockstep and _steps_with_all(optimizer, twin)):
                raise
            faults.append(f"{error}, at step {step + 1}{_without_gradient(given)}")
            break
        if lockstep and not faults:
            faults += _changed(twin.parameters, tensors, step)

        expected = twin.to_jax(twin.parameters)
        for name, leaf in _paths.by_path(params).items():
            weights[name].add(np.asarray(leaf), expected[name])
        for first, distances in zip(beginnings, sums_from, strict=True):
            expected, is_any = theirs.in_jax(first)
            found_accumulator |= is_any
            for name, s in sums.items():
                actual = np.asarray(np.asarray(s) + np.asarray(first, s.dtype))
                their = expected[name].astype(actual.dtype, copy=False)
                distances[name].add(actual, their)
    for distances in (weights, *sums_from):
        for distance in distances.values():
            distance.finish()
    moved = any(
        np.any(np.asarray(new) != np.asarray(old))
        for new, old in zip(
            jax.tree.leaves(params), jax.tree.leaves(problem.params), strict=True
        )
    )
    nearest = min(sums_from, key=lambda sums: max(d.relative for d in sums.values()))
    return Comparison(
        weights,
        nearest if found_accumulator else {},
        moved,
        found_accumulator and nearest is not sums_from[0],
        faults,
    )


def _is_held(values: Sequence[Any]) -> bool:
    return len({*values}) == 1


@functools.cache
def _jax_optimizer(
    reading: str,
    static: tuple[tuple[str, Any], ...],
    held: tuple[tuple[tuple[str, Any], ...], ...],
    groups: tuple[tuple[str, ...], ...],
) -> tuple[Any, Any]:
    """JAX's side, compiled: its ``init`` and its step, with the sums of each weight."""
    group_of = {name: k for k, group in enumerate(groups) for name in group}

    def labels(params: Any) -> Any:
        leaves = [group_of[name] for name in _paths.by_path(params)]
        return jax.tree.unflatten(jax.tree.structure(params), leaves)

    def make(hyperparameters: list[dict[str, Any]]) -> Any:
        of_groups = {
            k: READINGS[reading].make(**dict(static), **dict(held[k]), **values)
            for k, values in enumerate(hyperparameters)
        }
        return optax.partition(of_groups, labels)

    @jax.jit
    def init(params: Any, hyperparameters: list[dict[str, Any]]) -> Any:
        return make(hyperparameters).init(params)

    @jax.jit
    def step(
        params: Any, opt_state: Any, grads: Any, hyperparameters: list[dict[str, Any]]
    ) -> tuple[Any, Any, dict[str, jax.Array]]:
        updates, opt_state = make(hyperparameters).update(grads, opt_state, params)
        sums = {
            name: _sums.of_each_weight(s)
            for name, s in _grad_sum.grad_sums(opt_state).items()
        }
        return optax.apply_updates(params, updates), opt_state, sums

    return init, step


def _write(
    twin: Twin, gradients: Mapping[str, np.ndarray | None], step: int
) -> dict[str, torch.Tensor | None]:
    """Gives PyTorch a step's gradients, at most steps in the same memory as before."""
    tensors = {
        name: None if g is None else to_tensor(name, g, twin.layout)
        for name, g in gradients.items()
    }
    for name, parameter in twin.parameters.items():
        gradient, before = tensors[name], parameter.grad
        if gradient is None or before is None or step % _FRESH_EVERY == 0:
            parameter.grad = None if gradient is None else gradient.clone()
        else:
            before.copy_(gradient)
    return tensors


def _changed(
    parameters: Mapping[str, torch.nn.Parameter],
    gradients: Mapping[str, torch.Tensor | None],
    step: int,
) -> list[str]:
    """Names the first parameter whose gradient is no longer what was given."""
    for name, given in gradients.items():
        now = parameters[name].grad
        if now is not None and given is not None:
            if torch.allclose(now, given, rtol=0, atol=0, equal_nan=True):
                continue
        elif now is given:
            continue
        return [f"step() changes p.grad itself: of {name}, at step {step + 1}"]
    return []


def _steps_with_all(optimizer: ScheduledOptimizer, twin: Twin) -> bool:
    """Whether an optimizer that has failed doesn't if no gradient is None."""
    for parameter in twin.parameters.values():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer.step(0)
    except InputError:
        return False
    return True


def _without_gradient(gradients: Mapping[str, np.ndarray | None]) -> str:
    names = ", ".join(name for name, g in gradients.items() if g is None)
    return f", where p.grad of {names} is None" if names else ""
