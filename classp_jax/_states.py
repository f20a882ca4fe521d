"""The states of the parts, and how to find them in the state of an optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import optax

from classp_jax import _boxes, _gram_sketch, _paths, _sums


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
      grad_sum: the gradient sum, Σ ``|g|^p`` so far, a tree like the parameters: one
        float32 number per weight, unless the accumulator dtype is another. A factored
        tensor has a :class:`FactoredSum` instead.
    """

    count: jax.Array  # type: ignore[assignment]
    grad_sum: optax.Updates


class ScaleByAccumulatedGramState(NamedTuple):
    r"""State of :func:`scale_by_accumulated_gram`.

    Attributes:
      count: number of updates so far; shape ``()``, dtype ``int32``.
      gram: a tree like the parameters, with the sum :math:`L` of each tensor:
        symmetric, shape ``(blocks, d, d)``, at least float32; or, where ``rank`` makes
        a sketch of it, a :class:`GramSketch`.
      scaling: a tree like the parameters, with :math:`(I + L / \kappa)^{-q}` as of the
        last refresh: shaped like ``gram``, or a :class:`SketchedScaling`.
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
        of_directions = (
            " Its sums are per direction, not per weight;"
            ' optax.tree.get(opt_state, "gram") has them. Compare their traces with the'
            " damping: no direction's sum is larger than its tensor's trace."
        )
        raise ValueError(
            "There is no CLASSP accumulator (ScaleByAccumulatedPowerNormState) in"
            f" this optimizer state, which {holds(opt_state)}."
            + of_directions
            * bool(grams(opt_state))
        )
    return found


def holds(opt_state: optax.OptState) -> str:
    """Says of which types a state is made, as its structure may fill pages."""

    def types(structure: Any) -> Iterator[type]:
        if (data := structure.node_data()) is not None:
            yield data[0]
        for child in structure.children():
            yield from types(child)

    plain = (tuple, list, dict, type(None))
    found = [of for of in types(jax.tree.structure(opt_state)) if of not in plain]
    names = sorted({of.__name__ for of in found})
    return f"holds {', '.join(names)}" if names else "holds no state of Optax's"


def is_accumulator(node: Any) -> bool:
    """Whether a node of a state is an accumulator."""
    return isinstance(node, ScaleByAccumulatedPowerNormState)


def grams(opt_state: optax.OptState) -> list[ScaleByAccumulatedGramState]:
    """Every state with sums of directions; none beside an accumulator."""

    def is_either(node: Any) -> bool:
        return is_accumulator(node) or is_gram(node)

    nodes = jax.tree.leaves(opt_state, is_leaf=is_either)
    found = [node for node in nodes if is_gram(node)]
    return [] if any(map(is_accumulator, nodes)) else found


def is_gram(node: Any) -> bool:
    """Whether a node of a state has sums of directions."""
    return isinstance(node, ScaleByAccumulatedGramState)


def is_sum(node: Any) -> bool:
    """Whether a node of a tree of sums is one of several arrays."""
    return isinstance(node, _sums.FactoredSum | _gram_sketch.GramSketch)


def sums_of(state: Any) -> Any:
    """The sums of a state of either kind: a tree like the parameters."""
    return _boxes.unbox(_field_of(state)[1])


def with_sums(state: Any, sums: Any) -> Any:
    """A state with its sums replaced by those of a tree as :func:`sums_of` has it."""
    name, old = _field_of(state)
    new = jax.tree.unflatten(jax.tree.structure(old), jax.tree.leaves(sums))
    return state._replace(**{name: new})


def sums_by_path(state: Any) -> dict[str, Any]:
    """Each tensor's sum, by the tensor's path."""
    return _paths.by_path(sums_of(state), is_leaf=is_sum)


def _field_of(state: Any) -> tuple[str, Any]:
    name = "gram" if is_gram(state) else "grad_sum"
    return name, getattr(state, name)
