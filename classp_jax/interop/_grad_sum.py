"""Sets the gradient sums in an optimizer's state."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax

from classp_jax import _paths, _states, _sums
from classp_jax.interop import _gram


def with_grad_sum(opt_state: optax.OptState, grad_sum: Any) -> optax.OptState:
    """Replaces the gradient sums in an optimizer's state.

    Args:
      opt_state: any Optax state, also chained, masked, partitioned or injected, with at
        least one :class:`ScaleByAccumulatedPowerNormState` or, instead,
        :class:`ScaleByAccumulatedGramState`.
      grad_sum: a pytree of arrays like the parameters, or a flat dictionary keyed by
        path, ``{"conv1.kernel": ...}``. A factored sum is made from the sums of rows
        and columns. For per-direction sums, a tensor of m inputs needs the whole sum,
        (m, m), or its blocks; a sketch is made from the whole sum. The factor that
        slows the directions stays as it is until the next refresh.

    Returns:
      A state like ``opt_state``, with the same structure, dtypes and step counters.

    Raises:
      ValueError: if ``opt_state`` has no gradient sum or two for one tensor, or a
        tensor of ``grad_sum`` is missing, unexpected, misshapen or isn't such a sum;
        the error names the tensor.

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
    _paths.check_names("accumulator", grad_sums(opt_state), arrays)
    is_state, as_kept = _states.is_accumulator, _as_kept
    if _states.grams(opt_state):
        is_state, as_kept = _states.is_gram, _gram.as_kept

    def replace(node: Any) -> Any:
        if not is_state(node):
            return node
        sums = _states.sums_of(node)
        leaves, structure = jax.tree.flatten(sums, _states.is_sum)
        new = jax.tree.unflatten(
            structure,
            [
                as_kept(path, arrays[path], s)
                for path, s in zip(_states.sums_by_path(node), leaves, strict=True)
            ],
        )
        return _states.with_sums(node, _paths.replace_leaves(sums, _paths.by_path(new)))

    return jax.tree.map(replace, opt_state, is_leaf=is_state)


def grad_sums(opt_state: optax.OptState) -> dict[str, Any]:
    """Each tensor's sum, by path; a ``ValueError`` where it has two.

    Those of weights or, where there are none, of directions.
    """
    states = _states.grams(opt_state) or _states.accumulators(opt_state)
    return _paths.merged("accumulator", map(_states.sums_by_path, states))


def shape_of(s: _sums.Sum) -> tuple[int, ...]:
    """Of the tensor that a sum is of."""
    if isinstance(s, _sums.FactoredSum):
        return (*s.rows.shape, s.columns.shape[-1])
    return s.shape


def _as_kept(path: str, array: Any, s: _sums.Sum) -> Any:
    """A full array as a sum is kept."""
    dtype = np.float64 if isinstance(s, _sums.FactoredSum) else s.dtype
    array = _paths.cast(path, array, dtype)
    if np.any(array < 0):
        raise ValueError(f"{path} must be a sum of powers, but has values below 0.")
    if not isinstance(s, _sums.FactoredSum):
        return array
    if array.shape != shape_of(s):
        raise ValueError(f"{path} must have shape {shape_of(s)}, got {array.shape}.")
    return _sums.of_rows_and_columns(array, _sums.stacked(s))
