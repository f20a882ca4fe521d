"""CLASSP's accumulators, between a PyTorch optimizer's state and an Optax state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from classp_jax import _diagnostics, _factored, _paths, _transforms
from classp_jax.interop import _layout, _torch


def with_grad_sum(opt_state: optax.OptState, grad_sum: Any) -> optax.OptState:
    """An optimizer state with its accumulators replaced.

    Args:
      opt_state: any Optax state, chained, masked, partitioned, injected, with at least
        one :class:`ScaleByAccumulatedPowerNormState`.
      grad_sum: a pytree of arrays with the accumulators' paths, shaped like the
        parameters, or a flat dictionary keyed by path, ``{"conv1.kernel": ...}``. A
        factored accumulator takes the sums of their rows and columns.

    Returns:
      A state like ``opt_state``: same structure, dtypes and step counters.

    Raises:
      ValueError: if ``opt_state`` has no accumulator or two of one tensor, or a tensor
        of ``grad_sum`` is missing, unexpected or misshapen; it names the tensor.

    Examples:
      >>> import jax.numpy as jnp
      >>> import classp_jax
      >>> from classp_jax import interop
      >>> opt_state = classp_jax.classp(0.1).init({"kernel": jnp.zeros(2)})
      >>> grad_sum = {"kernel": jnp.array([1.0, 3.0])}
      >>> opt_state = interop.with_grad_sum(opt_state, grad_sum)
      >>> print(classp_jax.average_grad_sum(opt_state))
      2.0
    """
    arrays = _paths.by_path(grad_sum)
    _paths.check_names("accumulator", _grad_sums(opt_state), arrays)

    def replace(node: Any) -> Any:
        if not _diagnostics.is_accumulator(node):
            return node
        sums = _transforms.sums_of(node)
        leaves, structure = jax.tree.flatten(sums, _factored.is_factored)
        new = jax.tree.unflatten(
            structure,
            [
                _as_kept(path, arrays[path], s)
                for path, s in zip(_diagnostics.sums_by_path(node), leaves, strict=True)
            ],
        )
        return _transforms.with_sums(
            node, _paths.replace_leaves(sums, _paths.by_path(new))
        )

    return jax.tree.map(replace, opt_state, is_leaf=_diagnostics.is_accumulator)


def grad_sum_from_torch(
    optimizer_state_dict: Mapping[str, Any],
    names: Sequence[str],
    layout: _layout.Layout,
    opt_state: optax.OptState,
) -> optax.OptState:
    """An Optax state with the accumulators of a PyTorch optimizer.

    Nothing else moves: hyperparameters and step counters, on which schedules depend,
    stay those of ``opt_state``.

    Args:
      optimizer_state_dict: the ``state_dict()`` of an optimizer that keeps one tensor
        ``grad_sum`` a parameter in its state. A parameter without state, which never
        had a gradient, counts as zeros.
      names: the names of the parameters, as in the model's ``state_dict``, in the
        order in which the optimizer was given them, one group after the other:
        ``[name for name, _ in model.named_parameters()]``.
      layout: which tensor each array is.
      opt_state: as for :func:`with_grad_sum`, with an accumulator for each of
        ``names`` and no other.

    Returns:
      As :func:`with_grad_sum`.

    Raises:
      ValueError: if ``names`` doesn't fit the optimizer or the layout, a parameter's
        state has no ``grad_sum``, or a tensor is missing, unexpected or misshapen; it
        names the tensor.
      ImportError: if PyTorch isn't installed.
    """
    current = _grad_sums(opt_state)
    indices = _index_by_path(optimizer_state_dict, names, layout)
    _paths.check_names("accumulator", current, indices)
    states = optimizer_state_dict["state"]
    arrays = {}
    for path, index in indices.items():
        tensor = layout[path]
        if index not in states:
            arrays[path] = np.zeros(_shape(current[path]))
            continue
        if "grad_sum" not in states[index]:
            raise ValueError(
                f"The state of {tensor.key} must have a grad_sum, got"
                f" {sorted(states[index])}."
            )
        grad_sum = _torch.to_numpy(states[index]["grad_sum"])
        arrays[path] = _layout.to_jax_axes(tensor, grad_sum)
    return with_grad_sum(opt_state, arrays)


def grad_sum_to_torch(
    opt_state: optax.OptState,
    names: Sequence[str],
    layout: _layout.Layout,
    optimizer_state_dict: Mapping[str, Any],
) -> dict[str, Any]:
    """A PyTorch optimizer's ``state_dict`` with an Optax state's accumulators.

    Args:
      opt_state: as for :func:`grad_sum_from_torch`.
      names: as for :func:`grad_sum_from_torch`.
      layout: which tensor each array is.
      optimizer_state_dict: the ``state_dict()`` of the optimizer that is to go on, new
        or used; it is not changed.

    Returns:
      A dictionary like ``optimizer_state_dict`` with every parameter's ``grad_sum``
      replaced; for ``optimizer.load_state_dict``.

    Raises:
      ValueError: as :func:`grad_sum_from_torch`.
      ImportError: if PyTorch isn't installed.
    """
    current = _grad_sums(opt_state)
    indices = _index_by_path(optimizer_state_dict, names, layout)
    _paths.check_names("accumulator", indices, current)
    states = dict(optimizer_state_dict["state"])
    for path, index in indices.items():
        array = np.asarray(_factored.of_each_weight(current[path]))
        array = _layout.to_torch_axes(layout[path], array)
        grad_sum = _torch.to_tensor(array)
        states[index] = {**states.get(index, {}), "grad_sum": grad_sum}
    return {**optimizer_state_dict, "state": states}


def _grad_sums(opt_state: optax.OptState) -> dict[str, Any]:
    grad_sums: dict[str, Any] = {}
    for state in _diagnostics.accumulators(opt_state):
        by_path = _diagnostics.sums_by_path(state)
        if twice := sorted(grad_sums.keys() & by_path):
            raise ValueError(f"There are two accumulators of {', '.join(twice)}.")
        grad_sums |= by_path
    return grad_sums


def _shape(s: _factored.Sum) -> tuple[int, ...]:
    """Of the tensor that a sum is of."""
    if isinstance(s, _factored.FactoredSum):
        return (*s.rows.shape, s.columns.shape[-1])
    return s.shape


def _as_kept(path: str, array: Any, s: _factored.Sum) -> Any:
    """A full array as a sum is kept."""
    if not isinstance(s, _factored.FactoredSum):
        return array
    array = np.asarray(array, np.float64)
    if array.shape != _shape(s):
        raise ValueError(f"{path} must have shape {_shape(s)}, got {array.shape}.")
    return _factored.of_rows_and_columns(array, _factored.stacked(s))


def _index_by_path(
    optimizer_state_dict: Mapping[str, Any],
    names: Sequence[str],
    layout: _layout.Layout,
) -> dict[str, int]:
    """The PyTorch optimizer's number for the parameter at each JAX path."""
    groups = optimizer_state_dict["param_groups"]
    indices = [index for group in groups for index in group["params"]]
    if len(names) != len(indices):
        raise ValueError(
            f"names must list the optimizer's {len(indices)} parameters, got"
            f" {len(names)}: {list(names)}."
        )
    paths = {tensor.key: path for path, tensor in layout.items()}
    if unknown := [name for name in names if name not in paths]:
        raise ValueError(f"The layout has no entry for {', '.join(unknown)}.")
    return {paths[name]: index for name, index in zip(names, indices, strict=True)}
