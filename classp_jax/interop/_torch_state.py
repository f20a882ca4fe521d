"""Converts gradient sums between a PyTorch optimizer's state and an Optax state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optax

from classp_jax import _hyperparameters, _paths, _states, _sums
from classp_jax.interop import _conversion, _grad_sum, _gram, _layout, _torch
from classp_jax.interop._second_moment import of_average, of_squares


def grad_sum_from_torch(
    optimizer_state_dict: Mapping[str, Any],
    names: Sequence[str] | None,
    layout: _layout.Layout,
    opt_state: optax.OptState,
    *,
    accumulator: str = "grad_sum",
    power: float | None = None,
    steps: float | None = None,
    params: Any = None,
) -> optax.OptState:
    """Sets the gradient sums of an Optax state to those of a PyTorch optimizer.

    Nothing else changes: hyperparameters, and the step counters that schedules depend
    on, stay those of ``opt_state``.

    A per-direction sum, as :func:`classp_gram` and
    ``classp_jax.verify.reference.ClasspGram`` keep it, is a matrix over a weight's
    inputs. In PyTorch's order these are ``(in, *window)``, flattened, for a kernel
    ``(out, in, *window)``, and all axes but the last for any other tensor. The sum of a
    vector is one number. A sketch is made from the whole sum. The factor that slows the
    directions is made anew at the next refresh; in a new state, at its first step.

    Args:
      optimizer_state_dict: the ``state_dict()`` of an optimizer that keeps one sum for
        each parameter in its state. A parameter without state, which never had a
        gradient, counts as zeros.
      names: the names of the parameters, as in the model's ``state_dict``, in the order
        in which the optimizer got them, one group after the other: ``[name for name, _
        in model.named_parameters()]``. None takes the optimizer's own ``param_names``,
        which it has if it was made from named parameters.
      layout: which PyTorch tensor each JAX array is; it may have more than ``names``.
        Tied weights get PyTorch's one sum each.
      opt_state: as for :func:`with_grad_sum`, with a sum for each of ``names`` and no
        other.
      accumulator: the key of the sum in the state of a parameter; ``"sum"`` in
        ``torch.optim.Adagrad``, whose ``initial_accumulator_value`` is subtracted,
        since ``eps`` takes its place here. With ``power`` it may be ``"exp_avg_sq"``,
        the second moment of ``torch.optim.Adam`` and ``AdamW``.
      power: the power to estimate a sum for, as :func:`estimate_grad_sum` does, from
        ``"exp_avg_sq"`` or ``"sum"``. None takes the PyTorch sum as it is.
      steps: as for :func:`estimate_grad_sum`; the default is the ``step`` in each
        parameter's state.
      params: the JAX parameters, for per-direction sums only; their shapes tell the
        order of the inputs. ``ClasspGram`` calls its ``accumulator`` ``"gram"``.

    Returns:
      A state like ``opt_state``, with the same structure, dtypes and step counters.

    Raises:
      ValueError: if ``names`` doesn't fit the optimizer, its ``param_names`` or the
        layout, a parameter's state has no ``accumulator``, or a tensor is missing,
        unexpected, misshapen or not held by the sum's dtype. The error names it. If
        ``"exp_avg_sq"`` has no ``power``, or an accumulator other than those above has
        one; as :func:`estimate_grad_sum`. With per-direction sums, if there are no
        ``params``, a tensor has functions, or its blocks of inputs (``max_dim``) differ
        in PyTorch.
      ImportError: if PyTorch isn't installed.
    """
    if power is None and accumulator == "exp_avg_sq":
        raise ValueError(
            "exp_avg_sq is a mean of squares: give the power whose sum is wanted."
        )
    if power is not None:
        _hyperparameters.check_power("power", power)
        if accumulator not in ("exp_avg_sq", "sum"):
            raise ValueError(
                f"power is for an accumulator of squares, exp_avg_sq or sum; got"
                f" {accumulator!r}."
            )
    if steps is not None:
        _hyperparameters.check_power("steps", steps)
    current = _grad_sum.grad_sums(opt_state)
    parameters, entries = _match(optimizer_state_dict, names, layout)
    _paths.check_names("accumulator", current, _paths_of(entries))
    orders: dict[str, Any] = {}
    if _states.grams(opt_state):
        if power is not None:
            raise ValueError("Sums of directions can't be made of squares: no power.")
        orders = _gram.orders(entries, params, current)
        entries = _gram.of_inputs(entries)
    states = optimizer_state_dict["state"]
    sums = {}
    for name, parameter in parameters.items():
        if state := states.get(parameter.number):
            array = _torch.to_numpy(name, _kept(name, state, accumulator))
            array = array - parameter.start.astype(array.dtype)
            if power is not None:
                count = float(_kept(name, state, "step"))
                if accumulator == "exp_avg_sq":
                    b2 = parameter.group["betas"][1]
                    array = of_average(name, array, count, steps, power, b2)
                else:
                    array = of_squares(name, array, steps or count, power)
            sums[name] = array
    if unused := parameters.keys() - sums.keys():
        shape_of = _gram.shape_of if orders else _grad_sum.shape_of
        zeros = {path: np.zeros(shape_of(s)) for path, s in current.items()}
        of_unused = [entry for entry in entries if unused & set(entry.keys)]
        tensors = _conversion.to_torch(of_unused, zeros)
        sums |= {name: tensors[name] for name in unused}
    arrays = _conversion.to_jax(entries, sums)
    for path, order in orders.items():
        arrays[path] = _gram.to_jax(path, arrays[path], order, current[path])
    return _grad_sum.with_grad_sum(opt_state, arrays)


def grad_sum_to_torch(
    opt_state: optax.OptState,
    names: Sequence[str] | None,
    layout: _layout.Layout,
    optimizer_state_dict: Mapping[str, Any],
    *,
    accumulator: str = "grad_sum",
    params: Any = None,
) -> dict[str, Any]:
    """Sets the sums in a PyTorch optimizer's ``state_dict`` to those of an Optax state.

    Args:
      opt_state: as for :func:`grad_sum_from_torch`.
      names: as for :func:`grad_sum_from_torch`.
      layout: which PyTorch tensor each JAX array is.
      optimizer_state_dict: the ``state_dict()`` of the PyTorch optimizer to continue
        with, new or used; it isn't changed.
      accumulator: as for :func:`grad_sum_from_torch`.
      params: as for :func:`grad_sum_from_torch`.

    Returns:
      A dictionary like ``optimizer_state_dict``, with every parameter's ``accumulator``
      replaced, for ``optimizer.load_state_dict``. The rest, such as ``step``, is kept.

    Raises:
      ValueError: as :func:`grad_sum_from_torch`, and if the sums of tied weights
        differ, or a per-direction sum is a sketch.
      ImportError: if PyTorch isn't installed.
    """
    current = _grad_sum.grad_sums(opt_state)
    parameters, entries = _match(optimizer_state_dict, names, layout)
    _paths.check_names("accumulator", _paths_of(entries), current)
    if of_directions := bool(_states.grams(opt_state)):
        orders = _gram.orders(entries, params, current)
        entries = _gram.of_inputs(entries)
        arrays = {p: _gram.to_torch(p, s, orders[p]) for p, s in current.items()}
    else:
        arrays = {p: np.asarray(_sums.of_each_weight(s)) for p, s in current.items()}
    tensors = _conversion.to_torch(
        entries,
        arrays,
        estimated=any(_sums.is_factored(s) for s in current.values()),
    )
    states = dict(optimizer_state_dict["state"])
    for name, (number, start, _) in parameters.items():
        array = tensors[name] + start.astype(tensors[name].dtype)
        state = states.get(number, {})
        if state:
            shape = tuple(_kept(name, state, accumulator).shape)
            if of_directions and array.size == math.prod(shape):
                array = array.reshape(shape)  # A vector's, one number, has many.
            if array.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {array.shape}.")
        states[number] = {**state, accumulator: _torch.to_tensor(name, array)}
    return {**optimizer_state_dict, "state": states}


def _kept(name: str, state: Mapping[str, Any], accumulator: str) -> Any:
    if accumulator not in state:
        raise ValueError(
            f"The state of {name} must have a {accumulator}, got {sorted(state)}."
        )
    return state[accumulator]


class _Parameter(NamedTuple):
    """One of a PyTorch optimizer: its number, what its sum begins with, its group."""

    number: int
    start: np.ndarray[Any, Any]
    group: Mapping[str, Any]


def _match(
    optimizer_state_dict: Mapping[str, Any],
    names: Sequence[str] | None,
    layout: _layout.Layout,
) -> tuple[dict[str, _Parameter], list[_layout.Entry]]:
    """The PyTorch optimizer's parameters by name, and the layout's entries of them."""
    given: Any = optimizer_state_dict
    if not isinstance(given, Mapping) or not {"state", "param_groups"} <= {*given}:
        what = list(given) if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(
            "optimizer_state_dict must be an optimizer's, with state and param_groups;"
            f" got {what}."
        )
    parameters: list[_Parameter] = []
    recorded: list[Any] = []
    for group in optimizer_state_dict["param_groups"]:
        start = np.asarray(group.get("initial_accumulator_value", 0))
        parameters += [_Parameter(number, start, group) for number in group["params"]]
        own = group.get("param_names") or [None] * len(group["params"])
        if len(own) != len(group["params"]):
            raise ValueError(
                "A parameter group must have a name each, or none; got"
                f" {len(group['params'])} params and the param_names {list(own)}."
            )
        recorded += own
    # An optimizer may keep more under names; but in JSON, numbers are strings as well.
    others = given["state"].keys() - {parameter.number for parameter in parameters}
    if numbers := sorted(repr(key) for key in others if str(key).isdigit()):
        raise ValueError(
            "The optimizer's state has entries of no parameter in param_groups:"
            f" {', '.join(numbers)}."
        )
    names = _checked(names, recorded, len(parameters))
    by_name = dict(zip(names, parameters, strict=True))
    entries = _layout.entries(layout)
    known = {key for entry in entries for key in entry.keys}
    if unknown := [name for name in by_name if name not in known]:
        raise ValueError(f"The layout has no entry for {', '.join(unknown)}.")
    of_these = [e for e in entries if not by_name.keys().isdisjoint(e.keys)]
    if len(by_name) < len(names):
        missing = _paths_of([entry for entry in entries if entry not in of_these])
        raise ValueError(
            f"names must list each tensor once, got {list(names)}; missing: {missing}."
        )
    for entry in of_these:
        if entry.tensor.to_jax is not None:  # It takes the tensors of all its keys.
            given = [key for key in entry.keys if key in by_name]
            _paths.check_names(f"tensor of {entry.paths}", entry.keys, given)
    return by_name, of_these


def _checked(
    names: Sequence[str] | None, recorded: Sequence[Any], number: int
) -> Sequence[str]:
    """The parameters' names, those that the optimizer has recorded itself if None."""
    if names is None:
        if None in recorded:
            raise ValueError(
                "names must be given: the optimizer's state_dict has no param_names."
            )
        names = recorded
    names = list(names)
    if others := [name for name in names if not isinstance(name, str)]:
        raise ValueError(f"names must be strings, got a {type(others[0]).__name__}.")
    if len(names) != number:
        raise ValueError(
            f"names must list the optimizer's {number} parameters, got"
            f" {len(names)}: {list(names)}."
        )
    for i, (name, own) in enumerate(zip(names, recorded, strict=True)):
        if own not in (None, name):
            raise ValueError(
                f"names[{i}] is {name!r}, but the optimizer's own param_names say"
                f" {own!r}. With None for names, those are taken."
            )
    return names


def _paths_of(entries: Sequence[_layout.Entry]) -> list[str]:
    return [path for entry in entries for path in entry.paths]
