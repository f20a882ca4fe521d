"""Hyperparameters: a number, an injected array, or a schedule of the step."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax


def at_step(value: bool | optax.ScalarOrSchedule, step: jax.Array) -> Any:
    """The value of a hyperparameter at a step."""
    return value(step) if callable(value) else value


def check_number(name: str, value: Any) -> None:
    """Raises unless ``value`` is a schedule or a finite number."""
    number = _known_number(name, value)
    if number is not None and not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!r}.")


def check_not_negative(name: str, value: Any) -> None:
    """Raises unless ``value`` is a schedule or a finite number, at least zero."""
    number = _known_number(name, value)
    if number is not None and not 0.0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}.")


def check_positive(name: str, value: Any) -> None:
    """Raises unless ``value`` is a schedule or a finite number above zero."""
    number = _known_number(name, value)
    if number is not None and not 0.0 < number < math.inf:
        raise ValueError(f"{name} must be finite and above 0, got {value!r}.")


def check_static_positive(name: str, value: Any) -> None:
    """Raises unless ``value`` is a Python number, finite and above zero."""
    if isinstance(value, jax.Array) or callable(value):
        raise TypeError(
            f"{name} must be a Python number, fixed when the optimizer is built, got"
            f" {value!r}. With optax.inject_hyperparams, pass static_args={name!r}."
        )
    check_positive(name, value)


def check_switch(name: str, value: Any) -> None:
    """Raises unless ``value`` is a schedule, a bool or a finite number."""
    is_bool = isinstance(value, bool) or (
        hasattr(value, "dtype") and value.dtype == jnp.bool_ and jnp.ndim(value) == 0
    )
    if not is_bool:
        check_number(name, value)


def check_floating_dtype(name: str, value: Any) -> None:
    """Raises unless ``value`` is a floating dtype or None."""
    if value is None:
        return
    try:
        is_floating = jnp.issubdtype(jnp.dtype(value), jnp.floating)
    except TypeError:
        is_floating = False
    if not is_floating:
        raise TypeError(f"{name} must be a floating dtype, got {value!r}.")


def _known_number(name: str, value: Any) -> float | None:
    """``value`` as a float, or None where it is known only at run time."""
    if callable(value):
        return None
    if hasattr(value, "dtype"):
        is_number = jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(
            value.dtype, jnp.integer
        )
    else:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number:
        raise TypeError(
            f"{name} must be a number or a schedule, got {value!r} of type"
            f" {type(value).__name__}."
        )
    if jnp.ndim(value) != 0:
        raise ValueError(f"{name} must be a scalar, got shape {jnp.shape(value)}.")
    return None if isinstance(value, jax.core.Tracer) else float(value)
