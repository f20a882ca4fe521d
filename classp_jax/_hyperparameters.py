"""Hyperparameters: a number, an injected array, or a schedule of the step."""

from __future__ import annotations

import math
from numbers import Integral, Number
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).tiny)


def at_step(name: str, value: bool | optax.ScalarOrSchedule, count: jax.Array) -> Any:
    """The value of a hyperparameter at a step; raises if a schedule's is no scalar."""
    if not callable(value):
        # To JAX a Python integer is of 32 bits.
        return float(value) if type(value) is int else value
    scheduled = value(count)
    check_scalar(name, scheduled)
    return scheduled


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
    """Raises unless ``value`` is a schedule or a finite number above zero.

    A number is above it where float32 can hold it in full, as many machines count what
    is smaller as zero.
    """
    number = _known_number(name, value)
    if number is not None and not SMALLEST <= number < math.inf:
        raise ValueError(
            f"{name} must be finite and above 0 (in float32), got {value!r}."
        )


def check_below_1(name: str, value: Any) -> None:
    """Raises unless ``value`` is a number or an injected value from 0 on, below 1."""
    _refuse_schedule(name, value)
    number = _known_number(name, value)
    if number is not None and not 0 <= number < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value!r}.")


def check_fraction(name: str, value: Any) -> None:
    """Raises unless ``value`` is a schedule or a number above 0, at most 1."""
    number = _known_number(name, value)
    if number is not None and not 0 < number <= 1:
        raise ValueError(f"{name} must be above 0 and at most 1, got {value!r}.")


def check_memory(name: str, value: Any) -> None:
    """Raises unless ``value`` is None, a schedule, a number above 1 or infinity."""
    number = None if value is None else _known_number(name, value)
    if number is not None and not (1 < number < math.inf or value == math.inf):
        raise ValueError(
            f"{name} must be above 1, and finite in float32 or infinite, got {value!r}."
        )


def check_power(name: str, value: Any) -> None:
    """Raises unless ``value`` is a number or an injected value above zero."""
    _refuse_schedule(name, value)
    if not isinstance(value, jax.Array | Number):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    check_positive(name, value)


def check_static_bool(name: str, value: Any) -> None:
    """Raises unless ``value`` is a Python bool."""
    if not isinstance(value, bool):
        raise TypeError(
            f"{name} must be True or False, fixed when the optimizer is built, got"
            f" {value!r}."
        )


def check_switch(name: str, value: Any) -> None:
    """Raises unless ``value`` is a schedule, a bool or a finite number."""
    if isinstance(value, bool):
        return
    if hasattr(value, "dtype") and value.dtype == jnp.bool_:
        check_scalar(name, value)
    else:
        check_number(name, value)


def check_positive_int(name: str, value: Any) -> None:
    """Raises unless ``value`` is an integer from 1 on."""
    refuse_injected(name, value)
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}.")


def refuse_injected(name: str, value: Any) -> None:
    """Raises a ``TypeError`` if ``value`` is an array."""
    if isinstance(value, jax.Array):
        raise TypeError(
            f"{name} must be fixed when the optimizer is built, got an array."
            f" optax.inject_hyperparams makes one of it: add {name!r} to static_args."
        )


def check_transformation(name: str, value: Any) -> None:
    """Raises unless ``value`` is an Optax transformation."""
    # By what it can do, as optax.MultiSteps is none by its type.
    if not all(callable(getattr(value, part, None)) for part in ("init", "update")):
        raise TypeError(
            f"{name} must be an Optax gradient transformation, got {value!r}."
        )


def check_floating_dtype(name: str, value: Any) -> None:
    """Raises unless ``value`` is a floating dtype or None."""
    if value is None:
        return
    refuse_injected(name, value)
    try:
        is_floating = jnp.issubdtype(jnp.dtype(value), jnp.floating)
        bits = 8 * jnp.dtype(value).itemsize if is_floating else 0
    except (SyntaxError, TypeError, ValueError):
        bits = 0
    if isinstance(value, str) and not value.isalnum():
        bits = 0  # To NumPy "" and "\r" are float64.
    if bits < 16:  # Those of 8 bits and less don't promote to others.
        raise TypeError(
            f"{name} must be a floating dtype of 16 bits or more, got {value!r}."
        )


def _refuse_schedule(name: str, value: Any) -> None:
    if callable(value):
        raise TypeError(
            f"{name} must be a number, the same at every step, got {value!r}."
        )


def _known_number(name: str, value: Any) -> float | None:
    """``value`` as a float, or None where it is known only at run time.

    Infinity where it isn't finite in float32.
    """
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
    check_scalar(name, value)
    if isinstance(value, jax.core.Tracer):
        return None
    try:
        number = float(value)
    except OverflowError:
        return math.inf
    return number if abs(number) <= LARGEST else math.inf


def check_scalar(name: str, value: Any) -> None:
    """Raises a ``ValueError`` unless ``value`` has no axes."""
    if jnp.ndim(value) != 0:
        raise ValueError(f"{name} must be a scalar, got shape {jnp.shape(value)}.")
