"""The quadratic penalty of EWC and Synaptic Intelligence, its step taken implicitly."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from classp_jax import _hyperparameters, _paths, _placement, _sums
from classp_jax._arrays import at_least_float32, refuse_complex


class EwcPenaltyState(NamedTuple):
    """State of :func:`ewc_penalty`.

    Attributes:
      count: number of updates so far; shape ``()``, dtype ``int32``.
      fisher: the diagonal of the Fisher information, shaped like the parameters; 4
        bytes per weight in float32.
      anchor: the weights that the penalty pulls towards, shaped like the parameters; 4
        bytes per weight in float32.
    """

    count: jax.Array  # type: ignore[assignment]
    fisher: optax.Params
    anchor: optax.Params


def penalty_state(
    params: optax.Params, fisher: optax.Params, anchor: optax.Params
) -> EwcPenaltyState:
    """The state before the first step, of trees shaped like the parameters."""

    # Copies, as a step that donates the parameters would take the anchor with them.
    def copy(p: Any, x: Any) -> jax.Array | jax.ShapeDtypeStruct:
        return (
            x
            if isinstance(x, jax.ShapeDtypeStruct)
            else jnp.array(_placement.placed_like(p, x))
        )

    count = _placement.initial_count(params)
    copies = (jax.tree.map(copy, params, x) for x in (fisher, anchor))
    return EwcPenaltyState(count, *copies)


def replaced(
    state: EwcPenaltyState, fisher: optax.Params, anchor: optax.Params
) -> EwcPenaltyState:
    """A state with copies of other trees, in the dtypes and places of its own."""

    def copy(own: Any, x: Any) -> jax.Array:
        placed: jax.Array = _placement.placed_like(own, jnp.array(x, own.dtype))
        return placed

    own_fisher = shaped_like(state.fisher, "fisher", fisher)
    own_fisher = jax.tree.map(copy, state.fisher, own_fisher)
    check_not_negative("fisher", own_fisher)
    own_anchor = shaped_like(state.anchor, "anchor", anchor)
    own_anchor = jax.tree.map(copy, state.anchor, own_anchor)
    return state._replace(fisher=own_fisher, anchor=own_anchor)


def penalized(
    updates: optax.Updates,
    state: EwcPenaltyState,
    params: optax.Params,
    strength: optax.ScalarOrSchedule,
    learning_rate: optax.ScalarOrSchedule,
) -> tuple[optax.Updates, EwcPenaltyState]:
    """The gradients with the penalty's added, and the state after the step."""
    factor = _hyperparameters.at_step("strength", strength, state.count)
    rate = _hyperparameters.at_step("learning_rate", learning_rate, state.count)
    refuse_complex(updates)
    refuse_integers("gradient", updates)

    def penalize(
        g: jax.typing.ArrayLike | None,
        w: jax.typing.ArrayLike,
        f: jax.Array,
        w_star: jax.Array,
    ) -> jax.Array | None:
        if g is None:
            return None
        # Each by itself, as float8 promotes to no other.
        dtype = jnp.promote_types(
            *(at_least_float32(jnp.result_type(x)) for x in (g, w))
        )
        alpha = jnp.asarray(rate, dtype)
        # Each factor is finite before they meet: infinity times 0 would be NaN. Up to
        # the stiffest, alpha times the stiffness has an inverse.
        limits = np.finfo(dtype)
        lambda_, f = (
            jnp.minimum(jnp.asarray(x, dtype), limits.max) for x in (factor, f)
        )
        stiffest = jax.lax.stop_gradient(1 / limits.tiny / jnp.maximum(alpha, 0.5))
        stiffness = jnp.minimum(lambda_ * f, stiffest)
        distance = jnp.asarray(w, dtype) - jnp.asarray(w_star, dtype)
        u = _implicit(jnp.asarray(g, dtype), distance, stiffness, alpha)
        return u.astype(jnp.result_type(g))

    updates = jax.tree.map(
        penalize,
        updates,
        params,
        state.fisher,
        state.anchor,
        is_leaf=lambda x: x is None,
    )
    return updates, state._replace(count=optax.safe_increment(state.count))


@jax.custom_jvp
def _implicit(
    g: jax.Array, distance: jax.Array, stiffness: jax.Array, alpha: jax.Array
) -> jax.Array:
    """``(g + stiffness distance) / (1 + alpha stiffness)``, whatever the stiffness."""
    # Term by term: as written, the numerator overflows where the fraction doesn't.
    damping = 1 + alpha * stiffness
    pull = jnp.where(stiffness == 0, 0, distance * (stiffness / damping))
    return g / damping + pull


@_implicit.defjvp
def _implicit_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    # The quotient rule takes the difference of two terms that are next to equal where
    # the stiffness is large, and divides infinity by infinity where it is larger.
    g, distance, stiffness, alpha = primals
    dg, d_distance, d_stiffness, d_alpha = tangents
    u = _implicit(*primals)
    share = 1 / (1 + alpha * stiffness)
    # What isn't finite stays so at any stiffness, and must not reach the derivative by
    # a number that all weights share.
    finite = jnp.isfinite(u) & jnp.isfinite(distance)
    g, distance, known = (jnp.where(finite, x, 0) for x in (g, distance, u))
    # Tangents first: a derivative that overflows would make NaN of a tangent of 0.
    return u, (
        share * dg
        + stiffness * share * d_distance
        + share * d_stiffness * (share * distance - share * alpha * g)
        - stiffness * share * d_alpha * known
    )


@jax.jit
def _is_valid_fisher(x: jax.Array) -> jax.Array:
    return jnp.all((x >= 0) & jnp.isfinite(x))


def check_not_negative(name: str, tree: optax.Params) -> None:
    """Raises a ``ValueError`` where a value that is known is negative or not finite."""
    for path, x in _paths.by_path(tree).items():
        if isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct):
            continue
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            continue
        with jax.ensure_compile_time_eval():  # Also while init is traced.
            valid = bool(_is_valid_fisher(x))
        if not valid:
            raise ValueError(
                f"{name} must be finite and at least 0; {path or 'it'} is not."
            )


def refuse_integers(what: str, tree: Any) -> None:
    """Raises a ``TypeError`` that names a leaf that isn't floating."""
    for path, x in _paths.by_path(tree).items():
        if not jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating):
            raise TypeError(
                f"Every {what} must be floating; {path or 'this one'} is"
                f" {jnp.asarray(x).dtype}."
            )


def needed(name: str, params: optax.Params | None) -> optax.Params:
    """The parameters; raises a ``ValueError`` where ``update`` was given none."""
    if params is None:
        raise ValueError(
            f"{name} requires the current parameters: pass params to update."
        )
    return params


def shaped_like(params: optax.Params, name: str, tree: optax.Params) -> Any:
    """A tree's leaves in the parameters' structure, less what a mask leaves out.

    Raises:
      ValueError: it hasn't what they have, or that in another shape; by name.
    """
    if not jax.tree.leaves(params):  # optax.tree.map_params gives a placeholder.
        return params

    def is_masked(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    nodes = _paths.by_path(params, is_leaf=is_masked)
    expected = {path: p for path, p in nodes.items() if not is_masked(p)}
    left_out = nodes.keys() - expected.keys()
    below = tuple(path + step for path in left_out for step in ".[")
    actual = {
        path: x
        for path, x in _paths.by_path(tree).items()
        if path not in left_out and not path.startswith(below)
    }
    _paths.check_names(f"tensor of {name}", expected, actual)
    for path, p in expected.items():
        if jnp.shape(actual[path]) != jnp.shape(p):
            raise ValueError(
                f"{name} must be shaped like the parameters: {path or 'it'} must have"
                f" shape {jnp.shape(p)}, got {jnp.shape(actual[path])}."
            )
    # By path, as the nodes may be others: those of flax.nnx.Optimizer's state are.
    return jax.tree.unflatten(
        jax.tree.structure(params), [actual[path] for path in expected]
    )


def wide_zeros(params: optax.Params) -> Any:
    """Zeros that lie as the parameters do, in at least float32."""
    return jax.tree.map(
        lambda p: _sums.zeros(p, at_least_float32(jnp.result_type(p)), False),
        params,
    )
