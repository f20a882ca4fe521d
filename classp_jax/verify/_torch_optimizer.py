"""Calls a PyTorch optimizer with hyperparameters that change along a run."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from classp_jax.verify._schedule import Schedule

# What the command's own options are called in PyTorch optimizers.
NAMES = {
    "learning_rate": ("lr", "learning_rate"),
    "threshold": ("threshold",),
    "eps": ("eps", "epsilon"),
    "damping": ("damping",),
    "power": ("power",),
    "exponent": ("exponent",),
    "refresh_every": ("refresh_every",),
    "apply_decay": ("apply_decay", "apply_scaling"),
}
# What AdaGrad calls CLASSP's eps: the value that its sum begins with.
_INITIAL = "initial_accumulator_value"


class InputError(Exception):
    """What the user gave can't be used; the message is for them."""


def parse_arguments(option: str, texts: Iterable[str]) -> dict[str, tuple[Any, Any]]:
    """Reads ``name=value`` or ``name=first,second`` into values for both phases.

    Args:
      option: the option's name, for messages.
      texts: what the user gave.

    Returns:
      For each name, its value while the decay is closed and while it is open.

    Raises:
      InputError: if a text has no ``=`` or more than two values.
    """
    arguments = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"{option}: expected name=value, got {text!r}")
        is_one = values.startswith(("(", "[", "{"))  # betas=(0.9,0.99)
        phases = [_parse_value(v) for v in ([values] if is_one else values.split(","))]
        if len(phases) > 2:
            raise InputError(f"{option}: expected one value or two, got {text!r}")
        arguments[name] = (phases[0], phases[-1])
    return arguments


def _parse_value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return text


class Arguments(NamedTuple):
    """What a class and its ``step`` are called with.

    Attributes:
      in_constructor: the constructor's arguments that follow an option, with the
        option's name.
      in_step: likewise of ``step``.
      constructor: the user's constructor arguments, for both phases.
      step: the user's arguments of ``step``, for both phases.
      untouched: the constructor's other arguments, which keep their defaults.
    """

    in_constructor: dict[str, str]
    in_step: dict[str, str]
    constructor: Mapping[str, tuple[Any, Any]]
    step: Mapping[str, tuple[Any, Any]]
    untouched: tuple[str, ...]

    @property
    def named(self) -> set[str]:
        """The options of which the class has an argument, by name."""
        return {*self.in_constructor.values(), *self.in_step.values(), *self._given()}

    @property
    def taken(self) -> set[str]:
        """Those of them that follow the command's at every step."""
        at_start = {
            option for name, option in self.in_constructor.items() if name == _INITIAL
        }
        return self.named - self._given() - at_start

    @property
    def own(self) -> set[str]:
        """Those of them that each parameter group can have for itself."""
        return self.taken - {*self.in_step.values()}

    def _given(self) -> set[str]:
        given = {*self.constructor, *self.step}
        return {option for option, names in NAMES.items() if given & {*names}}


def arguments_of(
    optimizer_class: type[torch.optim.Optimizer],
    constructor: Mapping[str, tuple[Any, Any]],
    step: Mapping[str, tuple[Any, Any]],
    known: Collection[str],
) -> Arguments:
    """Finds out which arguments of a class follow the command's options.

    An argument of ``step`` that is None by default is left to the parameter groups, if
    the constructor takes it as well.

    Args:
      optimizer_class: the class.
      constructor: the user's constructor arguments, for both phases.
      step: the user's arguments of ``step``, for both phases.
      known: those options of :data:`NAMES` that there are.

    Returns:
      The arguments.

    Raises:
      InputError: if the class takes no such argument.
    """
    name = optimizer_class.__name__
    of_class = _parameters(optimizer_class, "__init__", constructor, f"{name}()")
    of_step = _parameters(optimizer_class, "step", step, f"{name}.step()")
    options = {name: option for option in known for name in NAMES[option]}
    # AdaGrad, whose own eps is added to the root.
    if "eps" in known and _INITIAL in of_class:
        options = {k: o for k, o in options.items() if o != "eps"} | {_INITIAL: "eps"}
        constructor = {"eps": (0.0, 0.0)} | {**constructor}
    in_constructor = {k: o for k, o in options.items() if k in of_class}
    in_step = {
        k: o
        for k, o in options.items()
        if k in of_step
        and not (of_step[k].default is None and o in in_constructor.values())
    }
    return Arguments(
        {k: o for k, o in in_constructor.items() if k not in constructor},
        {k: o for k, o in in_step.items() if k not in step},
        constructor,
        step,
        tuple(
            k for k in of_class if k not in {"self", "params", *options, *constructor}
        ),
    )


class ScheduledOptimizer:
    """A PyTorch optimizer whose hyperparameters change along a run.

    A value is written where it changes and nowhere else, so that what the optimizer
    itself does to it shows.

    Args:
      optimizer_class: the class.
      groups: the parameters of each group.
      schedule: the values of each group, by the keys of :data:`NAMES`.
      arguments: those that follow the schedule, and the user's.

    Raises:
      InputError: if the class can't be called so, or has no way to change a value.
    """

    def __init__(
        self,
        optimizer_class: type[torch.optim.Optimizer],
        groups: Sequence[Sequence[torch.nn.Parameter]],
        schedule: Schedule,
        arguments: Arguments,
    ) -> None:
        name = optimizer_class.__name__
        is_open = schedule[0]["apply_decay"]
        by_hand = _by_step(arguments.constructor, is_open)
        self._constructor = [
            {
                **{k: group[option] for k, option in arguments.in_constructor.items()},
                **by_hand,
            }
            for group in schedule
        ]
        self._step = {
            **{k: schedule[0][option] for k, option in arguments.in_step.items()},
            **_by_step(arguments.step, is_open),
        }
        first = [{k: v[0] for k, v in group.items()} for group in self._constructor]
        parameters: list[Any] = [
            {"params": list(group), **values}
            for group, values in zip(groups, first, strict=True)
        ]
        if len(groups) == 1:
            parameters = list(groups[0])
        try:
            alone = optimizer_class([torch.nn.Parameter(torch.zeros(1))], **first[0])
            self._optimizer = optimizer_class(parameters, **first[0])
        except Exception as error:
            raise InputError(
                f"{name}(params, {_listed(first[0])}) fails:"
                f" {type(error).__name__}: {error}"
            ) from error
        self._number_of = {id(p): k for k, group in enumerate(groups) for p in group}
        for key in first[0]:
            values = {repr(v) for group in self._constructor for v in group[key]}
            is_known = key in self._step or key in alone.param_groups[0]
            if len(values) > 1 and not is_known:
                raise InputError(
                    f"{name} can't change {key!r} between steps or groups: it is"
                    " neither an argument of step() nor in param_groups; given a single"
                    " value, the command's option of that name leaves it as it is"
                )

    def step(self, step: int) -> None:
        """Makes a step, counted from 0, with that step's hyperparameters."""
        for group in self._optimizer.param_groups:
            of_group = self._constructor[self._number_of[id(group["params"][0])]]
            for key, values in of_group.items():
                if step and key in group and values[step] != values[step - 1]:
                    group[key] = values[step]
        arguments = {key: values[step] for key, values in self._step.items()}
        try:
            self._optimizer.step(**arguments)
        except Exception as error:
            raise InputError(
                f"{type(self._optimizer).__name__}.step({_listed(arguments)}) fails:"
                f" {type(error).__name__}: {error}"
            ) from error

    def accumulator(
        self,
        parameter: torch.nn.Parameter,
        keys: Sequence[str],
        size: int | None = None,
    ) -> torch.Tensor | None:
        """The state of a parameter by the first key that it has; None without any.

        It is of the parameter's shape or, if given, of that many numbers.
        """
        state = self._optimizer.state.get(parameter, {})
        for key in keys:
            value = state.get(key)
            if isinstance(value, torch.Tensor) and (
                value.shape == parameter.shape
                if size is None
                else value.numel() == size
            ):
                return value
        return None


def _by_step(
    arguments: Mapping[str, tuple[Any, Any]], is_open: Sequence[bool]
) -> dict[str, list[Any]]:
    return {key: [pair[gate] for gate in is_open] for key, pair in arguments.items()}


def _parameters(
    optimizer_class: type[torch.optim.Optimizer],
    method: str,
    given: Mapping[str, tuple[Any, Any]],
    where: str,
) -> dict[str, inspect.Parameter]:
    """The parameters of a method, with those that it hands on to the class it extends.

    Raises an :class:`InputError` if one that the user gave isn't among them.
    """
    parameters: dict[str, inspect.Parameter] = {}
    takes_any = True
    for base in optimizer_class.__mro__:
        if takes_any and base is not torch.optim.Optimizer and method in vars(base):
            own = inspect.signature(vars(base)[method]).parameters
            parameters = {**own, **parameters}
            takes_any = any(p.kind is p.VAR_KEYWORD for p in own.values())
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = {k: p for k, p in parameters.items() if p.kind not in kinds}
    for name in given:
        if name not in parameters and not takes_any:
            known = ", ".join(p for p in parameters if p not in ("self", "closure"))
            raise InputError(f"{where} takes no argument {name!r}; it takes {known}")
    return parameters


def _listed(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())
