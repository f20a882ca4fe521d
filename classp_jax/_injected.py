"""Sets injected hyperparameters, as at a task boundary."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from classp_jax import _states


def set_hyperparameters(opt_state: optax.OptState, /, **values: Any) -> optax.OptState:
    """Sets hyperparameters that :func:`optax.inject_hyperparams` keeps in a state.

    It sets every injected hyperparameter of a given name, at any depth of wrappers, and
    nothing else. :func:`optax.tree.set`, in contrast, would also overwrite a parameter
    called ``threshold``, and its sum. Each value keeps its dtype and its devices, so a
    compiled step isn't compiled again. It also works inside ``jax.jit``.

    To set values in one part only, such as one group of :func:`optax.partition`, call
    it with that part of the state and put the result back.

    Args:
      opt_state: any pytree that holds at least one
        :class:`optax.InjectStatefulHyperparamsState`, such as the state of a chain,
        Linen's ``TrainState`` or the ``opt_state`` of ``flax.nnx.Optimizer``.
      **values: the new values by name; each a finite scalar, or an array shaped like
        the hyperparameter, such as one number per seed in a vmapped state. A
        ``memory`` may be infinite.

    Returns:
      The state with these values.

    Raises:
      ValueError: if no injected hyperparameter has the name, or a schedule determines
        it and would overwrite the value at the next step; if the value isn't finite,
        isn't shaped like the hyperparameter, or doesn't fit its dtype. Values that are
        known only at run time aren't checked.
      TypeError: if a value isn't a number.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from classp_jax import classp, set_hyperparameters
      >>> solver = optax.inject_hyperparams(classp, static_args="power")(
      ...     learning_rate=0.5, apply_decay=0.0
      ... )
      >>> opt_state = solver.init({"threshold": jnp.ones(2)})
      >>> opt_state = set_hyperparameters(opt_state, threshold=4.0, apply_decay=True)
      >>> opt_state.hyperparams["threshold"], opt_state.hyperparams["apply_decay"]
      (Array(4., dtype=float32), Array(1., dtype=float32))

    .. seealso:: :func:`classp_jax.baselines.set_penalty`,
      :func:`classp_jax.baselines.consolidate`
    """
    values = {name: _as_number(name, value) for name, value in values.items()}
    known: set[str] = set()

    def set_in(node: Any) -> Any:
        if not _is_injected(node):
            return node
        fields = dict(node) if isinstance(node, dict) else node._asdict()
        hyperparams = dict(fields["hyperparams"])
        known.update(hyperparams)
        for name in values.keys() & hyperparams.keys():
            if name in fields.get("hyperparams_states", ()):
                raise ValueError(
                    f"{name} is determined by a schedule, which would overwrite it at"
                    " the next step."
                )
            # A leaf, or a variable of flax.nnx around it.
            fill = functools.partial(_fill, name, values[name])
            hyperparams[name] = jax.tree.map(fill, hyperparams[name])
        fields["hyperparams"] = hyperparams
        fields["inner_state"] = everywhere(fields["inner_state"])
        return fields if isinstance(node, dict) else type(node)(**fields)

    def everywhere(tree: Any) -> Any:
        return jax.tree.map(set_in, tree, is_leaf=_is_injected)

    new_state = everywhere(opt_state)
    if not known and values:
        raise ValueError(
            "Nothing in this optimizer state is injected by optax.inject_hyperparams."
            f" It {_states.holds(opt_state)}."
        )
    if unknown := sorted(values.keys() - known):
        raise ValueError(
            f"{', '.join(unknown)}: no injected hyperparameter of this state; these"
            f" are {', '.join(sorted(known))}. optax.inject_hyperparams keeps Python"
            " bools, None and static_args fixed: begin with 0.0 in place of False."
        )
    return new_state


def _is_injected(node: Any) -> bool:
    # As a dictionary: in what flax.nnx.split makes of an optimizer.
    if isinstance(node, dict):
        return {"count", "hyperparams", "inner_state"} <= node.keys()
    injected = (optax.InjectStatefulHyperparamsState, optax.InjectHyperparamsState)
    return isinstance(node, injected)


def _as_number(name: str, value: Any) -> Any:
    """A value in an array; raises unless it is real and, where known, finite."""
    if not isinstance(value, jax.core.Tracer):
        value = np.asarray(value)
    dtype = value.dtype
    is_real = jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    if not (is_real or dtype == jnp.bool_):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    if isinstance(value, np.ndarray):
        is_allowed = np.isfinite(value) | (name == "memory") & (value == np.inf)
        if not np.all(is_allowed):
            raise ValueError(f"{name} must be finite, got {value}.")
    return value


def _fill(name: str, value: Any, leaf: Any) -> jax.Array:
    """An array like ``leaf``, down to its weak type and its place, of a value."""
    shape, dtype = jnp.shape(leaf), jnp.result_type(leaf)
    if value.shape not in ((), shape):
        raise ValueError(
            f"{name} must be a scalar{f' or of shape {shape}' if shape else ''}, got"
            f" shape {value.shape}."
        )
    _check_fits(name, value, dtype)
    if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer):
        return jnp.full_like(leaf, value)
    # Placed by hand, as full_like doesn't where the type is weak or memory the host's.
    filled = jnp.full_like(leaf if leaf.weak_type else np.empty(shape, dtype), value)
    return jax.device_put(filled, leaf.sharding) if leaf.committed else filled


def _check_fits(name: str, value: Any, dtype: Any) -> None:
    is_floating = jnp.issubdtype(dtype, jnp.floating)
    if isinstance(value, jax.core.Tracer):
        fits = is_floating or not jnp.issubdtype(value.dtype, jnp.floating)
    else:
        with np.errstate(over="ignore"):
            stored = value.astype(dtype)
        same = (stored != 0) == (value != 0) if is_floating else stored == value
        held = np.isfinite(stored) | np.isinf(value)
        fits = bool(np.all(held & same))
    if not fits:
        raise ValueError(
            f"{name} is kept as {dtype}, which doesn't hold {value}; inject a float, or"
            " pass hyperparam_dtype=jnp.float32 to optax.inject_hyperparams."
        )
