"""Diagnostics: what gradient sums and updates say about a network.

All of these are cheap and work inside ``jax.jit``. They find the sums in any chained,
masked, partitioned or injected state.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
import optax

from classp_jax import _paths, _placement, _states, _sums


class CountNonfiniteState(NamedTuple):
    """State of :func:`count_nonfinite`.

    Attributes:
      nonfinite_count: the number of updates so far in which a gradient wasn't finite;
        shape ``()``, dtype ``int32``.
    """

    nonfinite_count: jax.Array


@overload
def average_grad_sum(
    opt_state: optax.OptState, *, per_tensor: Literal[False] = False
) -> jax.Array: ...
@overload
def average_grad_sum(
    opt_state: optax.OptState, *, per_tensor: Literal[True]
) -> dict[str, jax.Array]: ...
def average_grad_sum(
    opt_state: optax.OptState, *, per_tensor: bool = False
) -> jax.Array | dict[str, jax.Array]:
    """Computes the mean gradient sum over all weights.

    Args:
      opt_state: any optimizer state that holds at least one
        :class:`ScaleByAccumulatedPowerNormState`.
      per_tensor: whether to return a dictionary with one mean per tensor, keyed by the
        tensor's path in the parameters (``"Dense_0.kernel"``).

    Returns:
      A scalar in at least float32, or a dictionary of them. If several parts of a state
      have sums of the same path, the later keys are ``"path#1"``, ``"path#2"``.

    Raises:
      ValueError: if there is no gradient sum in ``opt_state``.

    Examples:
      >>> import jax.numpy as jnp
      >>> import classp_jax
      >>> solver = classp_jax.classp(0.1)
      >>> gradient = {"bias": jnp.array([1.0, 3.0]), "scale": jnp.array(8.0)}
      >>> _, opt_state = solver.update(gradient, solver.init(gradient))
      >>> print(classp_jax.average_grad_sum(opt_state))
      4.0
    """
    sums = _grad_sums(opt_state)
    return _mean(
        {path: (_sums.total(s), _sums.size(s)) for path, s in sums.items()},
        per_tensor,
    )


@overload
def unassigned_share(
    opt_state: optax.OptState, *, per_tensor: Literal[False] = False
) -> jax.Array: ...
@overload
def unassigned_share(
    opt_state: optax.OptState, *, per_tensor: Literal[True]
) -> dict[str, jax.Array]: ...
def unassigned_share(
    opt_state: optax.OptState, *, per_tensor: bool = False
) -> jax.Array | dict[str, jax.Array]:
    """Computes the share of weights whose gradient sum is still zero.

    With :func:`classp` these are the weights that no step has updated, which the paper
    calls "unassigned for future tasks" (Section 3). Weights whose every power was too
    small for the sum's dtype count as well. :func:`classp_equation1` also collects
    gradients below the threshold, so there it is the share of weights that have had no
    gradient yet. With a factored sum it is the share of weights whose row or column has
    collected nothing. That is less than the share of weights that have collected
    nothing themselves.

    Args:
      opt_state: any optimizer state that holds at least one
        :class:`ScaleByAccumulatedPowerNormState`.
      per_tensor: whether to return a dictionary with one share per tensor, keyed by the
        tensor's path in the parameters.

    Returns:
      A float32 scalar between 0 and 1, or a dictionary of them.

    Raises:
      ValueError: if there is no gradient sum in ``opt_state``.

    Examples:
      >>> import jax.numpy as jnp
      >>> import classp_jax
      >>> solver = classp_jax.classp(0.1, threshold=4.0)
      >>> gradient = jnp.array([1.0, 2.0, 3.0, 4.0])
      >>> _, opt_state = solver.update(gradient, solver.init(gradient))
      >>> print(classp_jax.unassigned_share(opt_state))
      0.5
    """
    sums = _grad_sums(opt_state)
    return _mean(
        {path: (_sums.untouched(s), _sums.size(s)) for path, s in sums.items()},
        per_tensor,
    )


@overload
def update_density(
    updates: optax.Updates, *, per_tensor: Literal[False] = False
) -> jax.Array: ...
@overload
def update_density(
    updates: optax.Updates, *, per_tensor: Literal[True]
) -> dict[str, jax.Array]: ...
def update_density(
    updates: optax.Updates, *, per_tensor: bool = False
) -> jax.Array | dict[str, jax.Array]:
    """Computes the share of weights that a step changes.

    Args:
      updates: what the optimizer's ``update`` returned; any pytree of arrays.
      per_tensor: whether to return a dictionary with one share per tensor, keyed by the
        tensor's path in the updates.

    Returns:
      A float32 scalar between 0 and 1, or a dictionary of them.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax import update_density
      >>> updates = {"bias": jnp.array([0.0, 0.1]), "scale": jnp.array([0.2, 0.3])}
      >>> print(update_density(updates))
      0.75
      >>> {path: float(share) for path, share in
      ...  update_density(updates, per_tensor=True).items()}
      {'bias': 0.5, 'scale': 1.0}
    """
    return _mean(
        {
            path: (jnp.sum(u != 0, dtype=jnp.float32), jnp.size(u))
            for path, u in _paths.by_path(updates).items()
        },
        per_tensor,
    )


def count_nonfinite() -> optax.GradientTransformation:
    """Counts the updates in which a gradient isn't finite, and changes none of them.

    :func:`classp` and :func:`classp_equation1` leave such elements out, so a loss that
    is NaN at every step goes unnoticed. Chain this in front of them to notice it. It
    isn't part of them because it reads the gradients once more.

    Returns:
      The corresponding :class:`optax.GradientTransformation`, with the state
      :class:`CountNonfiniteState`: one integer. ``optax.tree.get(opt_state,
      "nonfinite_count")`` finds it in a chain.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from classp_jax import classp, count_nonfinite
      >>> solver = optax.chain(count_nonfinite(), classp(0.1))
      >>> params = jnp.array([1.0, 2.0])
      >>> opt_state = solver.init(params)
      >>> for gradient in (jnp.array([0.5, 0.1]), jnp.array([jnp.nan, 0.1])):
      ...     updates, opt_state = solver.update(gradient, opt_state, params)
      >>> print(optax.tree.get(opt_state, "nonfinite_count"))
      1
    """

    def init_fn(params: optax.Params) -> CountNonfiniteState:
        return CountNonfiniteState(_placement.initial_count(params))

    def update_fn(
        updates: optax.Updates,
        state: CountNonfiniteState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, CountNonfiniteState]:
        del params
        finite = [jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(updates)]
        found = ~jnp.all(jnp.stack(finite)) if finite else jnp.asarray(False)
        count = state.nonfinite_count
        count = jnp.where(found, optax.safe_increment(count), count)
        return updates, CountNonfiniteState(count)

    return optax.GradientTransformation(init_fn, update_fn)


def _grad_sums(opt_state: optax.OptState) -> dict[str, _sums.Sum]:
    sums: dict[str, _sums.Sum] = {}
    for number, state in enumerate(_states.accumulators(opt_state)):
        for path, s in _states.sums_by_path(state).items():
            # optax.partition keeps disjoint paths; a chain of two accumulators not.
            sums[f"{path}#{number}" if path in sums else path] = s
    return sums


def _mean(
    sums: dict[str, tuple[jax.Array, int]], per_tensor: bool
) -> jax.Array | dict[str, jax.Array]:
    """Of totals and numbers of weights, by path."""
    if per_tensor:
        return {path: _divide(*of_tensor) for path, of_tensor in sums.items()}
    totals, sizes = zip(*sums.values(), strict=True) if sums else ((), ())
    return _divide(sum(totals, start=jnp.float32(0)), sum(sizes))


def _divide(total: jax.Array, size: int) -> jax.Array:
    # To JAX a Python integer is of 32 bits, too few for the largest models.
    return total / float(max(size, 1))
