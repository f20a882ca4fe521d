"""Optimizers by their names: of Optax, of ``classp_jax``, or functions of one's own."""

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import optax
import optax.contrib

import classp_jax

Maker = Callable[..., optax.GradientTransformation]
"""A function that makes an optimizer, such as ``optax.adam``."""

_KNOWN: dict[str, Maker] = {
    "adagrad": optax.adagrad,
    "adam": optax.adam,
    "classp": classp_jax.classp,
    "classp_equation1": classp_jax.classp_equation1,
    "classp_released": classp_jax.classp_released,
    "sgd": optax.sgd,
}


def register_optimizer(make: Maker) -> Maker:
    """Lets the rows know a function by its name alone, without its module.

    Args:
      make: makes an optimizer.

    Returns:
      The same.
    """
    _KNOWN[make.__name__] = make
    return make


@functools.cache
def _of_optax() -> Mapping[str, Maker]:
    """Optax's optimizers: what takes a learning rate, and isn't a part of one.

    But for the schedule-free ones: they train other weights than are to be evaluated.
    """
    return {
        name: make
        for module in (optax.contrib, optax)
        for name, make in vars(module).items()
        if inspect.isfunction(getattr(make, "func", make))  # Or a partial one.
        and not name.startswith(("_", "scale_by", "schedule_free"))
        and any(key.endswith("learning_rate") for key in _parameters(make))
    }


def _all() -> Mapping[str, Maker]:
    return {**_of_optax(), **_KNOWN}


def _parameters(make: Maker) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(make).parameters


def maker(optimizer: str | Maker) -> Maker:
    """The function that makes a phase's optimizer.

    Args:
      optimizer: as :class:`examples.runner.plan.Phase` takes it.

    Returns:
      The function.

    Raises:
      ValueError: there is no optimizer of that name.
      TypeError: it is neither a name nor a function.
    """
    if isinstance(optimizer, str):
        if optimizer in _all():
            return _all()[optimizer]
        close = ", ".join(difflib.get_close_matches(optimizer, _all())) or "none"
        raise ValueError(
            f"There is no optimizer {optimizer!r} (close to it: {close}). Known are"
            f" {', '.join(sorted(_KNOWN))}, and of Optax"
            f" {', '.join(sorted(_of_optax().keys() - _KNOWN.keys()))}; or give a"
            " function that makes one."
        )
    if callable(optimizer):
        return optimizer
    raise TypeError(
        "A phase's optimizer is a name or a function that makes one, such as"
        f" optax.adam; its arguments are the hyperparameters. Got {optimizer!r}."
    )


def name_of(optimizer: str | Maker) -> str:
    """The name under which the rows have a phase's optimizer.

    Args:
      optimizer: as :class:`examples.runner.plan.Phase` takes it.

    Returns:
      The name by which it is known, or module and name of a function of one's own.

    Raises:
      ValueError: that wouldn't tell it from others: it is a lambda, depends on
        variables of the function that it stands in, or has arguments without a name.
      TypeError: it is neither a name nor a function.
    """
    if isinstance(optimizer, str):
        return optimizer
    make = maker(optimizer)
    for name, known in _all().items():
        if known is make:
            return name
    if isinstance(make, functools.partial) and not make.args:
        return name_of(make.func)
    name = getattr(make, "__qualname__", "<nameless>")
    captured = inspect.getclosurevars(make).nonlocals if "<locals>" in name else {}
    if name.endswith((">", "<lambda>")) or captured:
        why = f"depends on {', '.join(captured)} around it" if captured else "has none"
        raise ValueError(
            f"The rows know an optimizer by its name, and {make!r} {why}. Write it as a"
            " function with a name, of which all that varies is a hyperparameter."
        )
    return f"{make.__module__}.{name}"


def arguments(
    optimizer: str | Maker, hyperparameters: Mapping[str, Any]
) -> dict[str, Any]:
    """What an optimizer is made with, its defaults too.

    Args:
      optimizer: as :class:`examples.runner.plan.Phase` takes it.
      hyperparameters: likewise.

    Returns:
      Its arguments by their names.

    Raises:
      ValueError: there is no optimizer of that name.
      TypeError: a hyperparameter is none of its arguments, or one is missing.
    """
    make = maker(optimizer)
    try:
        bound = inspect.signature(make).bind(**hyperparameters)
    except TypeError as error:
        raise TypeError(
            f"{name_of(optimizer)}: {error}; it takes {', '.join(_parameters(make))}."
        ) from error
    bound.apply_defaults()
    return bound.arguments
