"""Loads a PyTorch optimizer class and drives it through two phases."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch

# What the command's own options are called in PyTorch optimizers.
NAMES = {
    "learning_rate": ("lr", "learning_rate"),
    "threshold": ("threshold",),
    "eps": ("eps", "epsilon"),
    "power": ("power",),
    "apply_decay": ("apply_decay", "apply_scaling"),
}


class InputError(Exception):
    """What the user gave can't be used; the message is for them."""


def load_class(location: str) -> type[torch.optim.Optimizer]:
    """The class at ``path/to/file.py:ClassName``.

    Args:
      location: the file, a colon, and the name of the class in it.

    Returns:
      The class. The file is run, as an import would.

    Raises:
      InputError: if there is no such file or class, the file can't be run, or the
        class isn't an Optimizer.
    """
    file, colon, name = location.rpartition(":")
    if not colon or not file or not name:
        raise InputError(f"expected path/to/file.py:ClassName, got {location!r}")
    path = pathlib.Path(file)
    if not path.is_file():
        raise InputError(f"there is no file {file!r}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{file!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # As an import would have it: its neighbours and itself can be imported.
    sys.path.insert(0, str(path.parent))
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{file!r} can't be imported: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, name, None)
    if found is None:
        raise InputError(f"there is no {name!r} in {file!r}")
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise InputError(f"{name!r} in {file!r} is not a torch.optim.Optimizer class")
    return found


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


class PhasedOptimizer:
    """A PyTorch optimizer whose hyperparameters change from one phase to the next.

    Args:
      optimizer_class: the class.
      parameters: what it is to optimize.
      options: the command's own hyperparameters, for both phases, by the keys of
        :data:`NAMES`; they fill the parameters known by name that the user left out.
      constructor: the user's constructor arguments, for both phases.
      step: the user's arguments of ``step``, for both phases.

    Raises:
      InputError: if the class takes no such argument, or has no way to change one
        that differs between the phases.
    """

    def __init__(
        self,
        optimizer_class: type[torch.optim.Optimizer],
        parameters: Iterable[torch.nn.Parameter],
        options: Mapping[str, tuple[Any, Any]],
        constructor: Mapping[str, tuple[Any, Any]],
        step: Mapping[str, tuple[Any, Any]],
    ) -> None:
        name = optimizer_class.__name__
        self._constructor = _filled(
            optimizer_class.__init__, options, constructor, f"{name}()"
        )
        self._step = _filled(optimizer_class.step, options, step, f"{name}.step()")
        arguments = {key: first for key, (first, _) in self._constructor.items()}
        try:
            self._optimizer = optimizer_class(parameters, **arguments)
        except Exception as error:
            raise InputError(
                f"{name}(params, {_listed(arguments)}) fails:"
                f" {type(error).__name__}: {error}"
            ) from error
        for key, (first, then) in self._constructor.items():
            in_groups = all(key in group for group in self._optimizer.param_groups)
            if first != then and key not in self._step and not in_groups:
                raise InputError(
                    f"{name} can't change {key!r} between the phases: it is neither an"
                    " argument of step() nor in param_groups"
                )
        decay = {*NAMES["apply_decay"]} & {*self._constructor, *self._step}
        if options["apply_decay"][0] != options["apply_decay"][1] and not decay:
            raise InputError(
                f"{name} has no argument {' or '.join(NAMES['apply_decay'])} to open"
                " the decay with; --decay-from 0 leaves it open from the start"
            )

    def step(self, phase: int) -> None:
        """Makes one step with the hyperparameters of phase 0 or 1."""
        for group in self._optimizer.param_groups:
            for key, values in self._constructor.items():
                if key in group:
                    group[key] = values[phase]
        arguments = {key: values[phase] for key, values in self._step.items()}
        try:
            self._optimizer.step(**arguments)
        except Exception as error:
            raise InputError(
                f"{type(self._optimizer).__name__}.step({_listed(arguments)}) fails:"
                f" {type(error).__name__}: {error}"
            ) from error

    def accumulator(
        self, parameter: torch.nn.Parameter, key: str
    ) -> torch.Tensor | None:
        """The state of a parameter; None where there is none."""
        value = self._optimizer.state.get(parameter, {}).get(key)
        return value if isinstance(value, torch.Tensor) else None


def _filled(
    function: Any,
    options: Mapping[str, tuple[Any, Any]],
    given: Mapping[str, tuple[Any, Any]],
    where: str,
) -> dict[str, tuple[Any, Any]]:
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in given:
        if name not in parameters and not takes_any:
            known = ", ".join(p for p in parameters if p not in ("self", "closure"))
            raise InputError(f"{where} takes no argument {name!r}; it takes {known}")
    filled = {
        name: options[option]
        for option, names in NAMES.items()
        for name in names
        if name in parameters
    }
    return {**filled, **given}


def _listed(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())
