"""What of an optimizer's state goes on where one phase ends and the next begins."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from classp_jax import FactoredSum, ScaleByAccumulatedPowerNormState
from examples.runner.evaluation import Params
from examples.runner.plan import Phase
from examples.runner.trainer import TrainState

_KINDS_OF_SUM: list[type] = [ScaleByAccumulatedPowerNormState]


def register_sum_state(kind: type[Any]) -> type[Any]:
    """Lets a kind of state that holds a sum of CLASSP's go on as one.

    Args:
      kind: the class of the state.

    Returns:
      The same.
    """
    _KINDS_OF_SUM.append(kind)
    return kind


def states_of(opt_state: optax.OptState, *kinds: type) -> list[Any]:
    """The states of some kinds within that of an optimizer, in their order."""

    def is_one(node: Any) -> bool:
        return isinstance(node, kinds)

    return list(filter(is_one, jax.tree.leaves(opt_state, is_leaf=is_one)))


def replaced(
    opt_state: optax.OptState, kind: type, by: Callable[[Any], Any]
) -> optax.OptState:
    """An optimizer's state, the states of a kind within it replaced."""
    return jax.tree.map(
        lambda node: by(node) if isinstance(node, kind) else node,
        opt_state,
        is_leaf=lambda node: isinstance(node, kind),
    )


def collected_sums(opt_state: optax.OptState) -> list[Any]:
    """The states that hold a sum of CLASSP's."""
    return states_of(opt_state, *_KINDS_OF_SUM)


def kind_of_sum(phase: Phase) -> str:
    """What a phase's optimizer sums, if it does, in words; equal for equal sums."""
    of = phase.arguments
    released = phase.optimizer_name == "classp_released"  # Whatever its power.
    power = 1 if released else of.get("power", 1)
    storage = f", stored as {of['storage']}" if "storage" in of else ""
    return f"|g|^{float(power):g}{storage}"


def carry_over(before: TrainState, fresh: TrainState) -> TrainState:
    """The state that a phase begins with: the optimizer's goes on where it can.

    Weights that the model hadn't before are those of a new one. A sum goes on in any
    optimizer that keeps one: in the same form, in a wider dtype, or as those of rows
    and columns.

    Raises:
      ValueError: what should go on can't be had in the form that the phase keeps.
    """
    before = before._replace(params=_with_new(before.params, fresh.params))
    so_far, own = before.opt_state, fresh.opt_state
    if _structure(so_far) == _structure(own):
        opt_state = jax.tree_util.tree_map_with_path(_continued, so_far, own)
        return before._replace(opt_state=opt_state)
    collected, kept = collected_sums(so_far), collected_sums(own)
    if kept and not collected:
        warnings.warn(
            "A phase's optimizer goes on from a sum, but the one before collected none:"
            " it begins at 0, and nothing protects what was learned. classp with"
            " apply_decay=False is SGD that collects.",
            stacklevel=1,  # One place, however often it is so.
        )
    if not kept or not collected:
        return before._replace(opt_state=own)
    if len(collected) > 1 or len(kept) > 1:
        raise ValueError(
            f"the optimizer before keeps {len(collected)} sums and this one"
            f" {len(kept)}, so that it's open which goes on as which; give both the"
            " same optimizer."
        )
    (of_before,), (of_own,) = collected, kept
    forms = [type(x) for x in (of_before, of_own)]
    if forms != 2 * [ScaleByAccumulatedPowerNormState]:
        raise _other_form(*(form.__name__ for form in forms))
    goes_on = _in_the_form_of(of_own, of_before)
    opt_state = replaced(own, ScaleByAccumulatedPowerNormState, lambda _: goes_on)
    return before._replace(opt_state=opt_state)


def _with_new(so_far: Params, own: Params) -> Params:
    """The weights so far, and new ones where the phase's model has further ones."""
    if _structure(so_far) == _structure(own):
        return so_far
    together: Params = nnx.merge_state(own, so_far)
    if _structure(together) != _structure(own):
        raise ValueError(
            "the model before has weights that this one hasn't: a phase's model may"
            " only have further ones."
        )
    return together


def _structure(tree: Any) -> Any:
    return jax.tree.structure(tree)


def _in_the_form_of(
    own: ScaleByAccumulatedPowerNormState, so_far: ScaleByAccumulatedPowerNormState
) -> ScaleByAccumulatedPowerNormState:
    """A sum as another keeps it, which counts its own steps."""
    collected, wanted = (_by_path(x.grad_sum) for x in (so_far, own))
    if collected.keys() != wanted.keys():
        raise _other_form(
            *(f"of {', '.join(x) or 'nothing'}" for x in (collected, wanted))
        )
    goes_on: list[jax.Array] = []
    for path, of_before in collected.items():
        parts, own_parts = jax.tree.leaves(of_before), jax.tree.leaves(wanted[path])
        if len(parts) > len(own_parts):
            raise _other_form("of rows and columns (factored=True)", "of each weight")
        if len(parts) < len(own_parts):
            (full,) = parts
            full = _widened(
                path, full, jax.ShapeDtypeStruct(full.shape, own_parts[0].dtype)
            )
            last = full.ndim - 1
            parts = [_summed(full, axes) for axes in ((last,), tuple(range(last)))]
        goes_on += [
            _widened(path, *pair) for pair in zip(parts, own_parts, strict=True)
        ]
    structure = jax.tree.structure(own.grad_sum)
    return own._replace(grad_sum=jax.tree.unflatten(structure, goes_on))


def _by_path(grad_sum: optax.Updates) -> dict[str, jax.Array | FactoredSum]:
    """The sum of each tensor by its path, whole or in rows and columns."""
    nodes = jax.tree_util.tree_leaves_with_path(
        grad_sum, is_leaf=lambda node: isinstance(node, FactoredSum)
    )

    # A whole one may be in a Flax variable.
    def name(path: Any) -> str:
        keys = jax.tree_util.keystr(path, simple=True, separator=".")
        return keys.removesuffix(".value")

    return {name(path): node for path, node in nodes}


def _summed(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    total = jnp.sum(x, axes, jnp.promote_types(x.dtype, jnp.float32))
    # As a sum does whose terms no longer fit.
    return jnp.minimum(total, jnp.finfo(x.dtype).max).astype(x.dtype)


def _continued(path: Any, so_far: jax.Array, own: jax.Array) -> jax.Array:
    keys = jax.tree_util.keystr(path, simple=True, separator=".")
    return _widened(keys, so_far, own)


def _widened(
    path: str, so_far: jax.Array, own: jax.Array | jax.ShapeDtypeStruct
) -> jax.Array:
    """An array as one of a phase's optimizer, where that loses nothing."""
    if so_far.dtype == own.dtype and so_far.shape == own.shape:
        return so_far
    wider = jnp.promote_types(so_far.dtype, own.dtype) == own.dtype
    if so_far.shape != own.shape or not wider:
        raise _other_form(*(f"{path} {x.dtype}{list(x.shape)}" for x in (so_far, own)))
    return so_far.astype(own.dtype)


def _other_form(so_far: str, own: str) -> ValueError:
    return ValueError(
        f"what the optimizer before collected is {so_far}, and can't go on as this"
        f" one's, which is {own}: give both phases the same factored,"
        " accumulator_dtype, storage or other dtype."
    )
