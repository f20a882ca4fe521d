"""The states of the parts, and how they are found in those of whole optimizers."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax

from classp_jax import _boxes, _paths, _sums


class ThresholdMaskState(NamedTuple):
    """State of :func:`threshold_mask`.

    Attributes:
      count: number of updates so far; shape ``()``, dtype ``int32``.
      inner_state: the state of the inner transformation.
    """

    count: jax.Array  # type: ignore[assignment]
    inner_state: optax.OptState


class ScaleByAccumulatedPowerNormState(NamedTuple):
    """State of :func:`scale_by_accumulated_power_norm`.

    Attributes:
      count: number of updates so far; shape ``()``, dtype ``int32``.
      grad_sum: the sum of ``|g|^p`` so far, shaped like the parameters; 4 bytes a
        weight unless another accumulator dtype was asked for. Of a factored tensor a
        :class:`FactoredSum` of the sums over rows and columns.
    """

    count: jax.Array  # type: ignore[assignment]
    grad_sum: optax.Updates


class ScaleByAccumulatedGramState(NamedTuple):
    r"""State of :func:`scale_by_accumulated_gram`.

    Attributes:
      count: number of updates so far; shape ``()``, dtype ``int32``.
      gram: a tree like the parameters, of each tensor's sum :math:`L`: symmetric,
        shape ``(blocks, d, d)``, at least float32; with ``rank`` a
        :class:`GramSketch`.
      scaling: likewise, :math:`(I + L / \kappa)^{-q}` as of the last refresh;
        with ``rank`` a :class:`SketchedScaling`.
    """

    count: jax.Array  # type: ignore[assignment]
    gram: optax.Updates
    scaling: optax.Updates


class DecayGateState(NamedTuple):
    """State of :func:`decay_gate`.

    Attributes:
      count: number of updates so far; shape ``()``, dtype ``int32``.
      inner_state: the state of the inner transformation.
    """

    count: jax.Array  # type: ignore[assignment]
    inner_state: optax.OptState


def accumulators(
    opt_state: optax.OptState,
) -> list[ScaleByAccumulatedPowerNormState]:
    """Every accumulator in a state; a ``ValueError`` where there is none."""
    found = [
        node
        for node in jax.tree.leaves(opt_state, is_leaf=is_accumulator)
        if is_accumulator(node)
    ]
    if not found:
        raise ValueError(
            "There is no CLASSP accumulator (ScaleByAccumulatedPowerNormState) in"
            f" this optimizer state: {jax.tree.structure(opt_state)}."
        )
    return found


def is_accumulator(node: Any) -> bool:
    """Whether a node of a state is an accumulator."""
    return isinstance(node, ScaleByAccumulatedPowerNormState)


def sums_of(state: ScaleByAccumulatedPowerNormState) -> Any:
    """The sums of a state: a tree like the parameters, of arrays and factored sums."""
    return _boxes.unbox(state.grad_sum)


def with_sums(
    state: ScaleByAccumulatedPowerNormState, sums: Any
) -> ScaleByAccumulatedPowerNormState:
    """A state with its sums replaced by those of a tree as :func:`sums_of` has it."""
    structure = jax.tree.structure(state.grad_sum)
    grad_sum = jax.tree.unflatten(structure, jax.tree.leaves(sums))
    return state._replace(grad_sum=grad_sum)


def sums_by_path(
    state: ScaleByAccumulatedPowerNormState,
) -> dict[str, _sums.Sum]:
    """Each tensor's sum, by the tensor's path."""
    sums = sums_of(state)
    return _paths.by_path(sums, is_leaf=_sums.is_factored)
