r"""Sums of \|g\| in fewer bits than float32: tried beside ``factored=True``."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import classp_jax
from examples.methods.classp import FAMILY, collect
from examples.methods.registry import Sweep, TaskSequence
from examples.runner.carry_over import register_sum_state
from examples.runner.optimizers import register_optimizer
from examples.runner.plan import Phase

_BLOCK = 256  # Values that share a scale.
_LAST = 255  # The highest code of 8 bits.


class Levels(NamedTuple):
    """The values that 8 bits stand for, increasing from 0.

    Attributes:
      position: where a value lies among the codes, or within one of it.
      level: the value of a code.
      blockwise: whether it is a fraction of the greatest of a block of 256.
    """

    position: Callable[[jax.Array], jax.Array]
    level: Callable[[jax.Array], jax.Array]
    blockwise: bool = True


LEVELS = {
    "linear": Levels(lambda x: _LAST * x, lambda code: code / _LAST),
    "square": Levels(lambda x: _LAST * jnp.sqrt(x), lambda c: jnp.square(c / _LAST)),
    # Eight an octave, from 2^-24 to 2^7.75.
    "logarithmic": Levels(
        lambda x: 8 * (jnp.log2(x) + 24) + 1,
        lambda code: jnp.where(code > 0, jnp.exp2((code - 1) / 8 - 24), 0.0),
        blockwise=False,
    ),
}
ROUNDINGS = {
    "tensor": ("nearest",),
    "bfloat16": ("nearest", "stochastic"),
    "linear": ("nearest", "stochastic", "feedback"),
    "square": ("nearest", "stochastic", "feedback"),
    "logarithmic": ("nearest", "stochastic"),
}


@register_sum_state
class StoredSumState(NamedTuple):
    """State of :func:`scale_by_stored_sum`.

    Attributes:
      count: number of updates so far; shape ``()``, dtype ``int32``.
      stored: each tensor's sum as it is stored: an array, or :class:`Blocks`.
    """

    count: jax.Array  # type: ignore[assignment]
    stored: list[Any]


class Blocks(NamedTuple):
    """A tensor's sum in 8 bits.

    Attributes:
      codes: shape ``(blocks, 256)``, dtype ``uint8``; the last block is filled with 0.
      scales: of each block; shape ``(blocks, 1)``, dtype ``float32``.
    """

    codes: jax.Array
    scales: jax.Array


@register_optimizer
def classp_stored(
    learning_rate: float,
    storage: str,
    rounding: str = "nearest",
    apply_decay: bool = True,
) -> optax.GradientTransformation:
    """Algorithm 1, p = 1, without θ, by :func:`scale_by_stored_sum`."""
    scale = scale_by_stored_sum(storage, rounding)
    return optax.chain(
        classp_jax.decay_gate(scale, apply_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def scale_by_stored_sum(
    storage: str, rounding: str = "nearest", eps: float = 1e-5
) -> optax.GradientTransformation:
    r"""Divides each update by a sum of \|g\| that is stored in fewer bits.

    A step restores the sum, adds its own gradient, divides by what comes out, and
    stores that.

    Args:
      storage: ``"tensor"``, a tensor's mean in place of each weight's own;
        ``"bfloat16"``; or, in 8 bits, a key of :data:`LEVELS`.
      rounding: ``"nearest"``; ``"stochastic"``, to either neighbour by chance, such
        that the mean is right; or ``"feedback"``, to the nearest, and what a block of
        256 has lost or won in sum goes into its scale.
      eps: added to the sum.

    Returns:
      An Optax transformation.

    Raises:
      ValueError: there is no such storage, or none with that rounding.
    """
    if rounding not in ROUNDINGS.get(storage, ()):
        raise ValueError(f"No {storage!r} with rounding {rounding!r}: {ROUNDINGS}.")

    def init_fn(params: optax.Params) -> StoredSumState:
        stored = [
            store(jnp.zeros(p.shape), storage, rounding, jax.random.key(0))
            for p in jax.tree.leaves(params)
        ]
        return StoredSumState(jnp.zeros([], jnp.int32), stored)

    def update_fn(
        updates: optax.Updates, state: StoredSumState, params: Any = None
    ) -> tuple[optax.Updates, StoredSumState]:
        del params
        gradients, treedef = jax.tree.flatten(updates)
        keys = jax.random.split(
            jax.random.fold_in(jax.random.key(0), state.count), len(gradients)
        )
        sums = [
            restore(stored, storage, g.shape) + jnp.abs(g)
            for g, stored in zip(gradients, state.stored, strict=True)
        ]
        updates = [g / (eps + s) for g, s in zip(gradients, sums, strict=True)]
        stored = [
            store(s, storage, rounding, key) for s, key in zip(sums, keys, strict=True)
        ]
        return jax.tree.unflatten(treedef, updates), StoredSumState(
            state.count + 1, stored
        )

    return optax.GradientTransformation(init_fn, update_fn)


def store(x: jax.Array, storage: str, rounding: str, key: jax.Array) -> Any:
    """A tensor's sum, float32, as it is stored."""
    if storage == "tensor":
        return jnp.mean(x)
    if storage == "bfloat16":
        if rounding == "nearest":
            return x.astype(jnp.bfloat16)
        # What is cut off, or more, comes on top as often as it is long.
        noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + noise
        upper = (bits >> 16).astype(jnp.uint16)
        return jax.lax.bitcast_convert_type(upper, jnp.bfloat16)
    levels = LEVELS[storage]
    flat = jnp.pad(x.ravel(), (0, -x.size % _BLOCK)).reshape(-1, _BLOCK)
    scales = jnp.ones([len(flat), 1])
    if levels.blockwise:
        scales = jnp.max(flat, axis=1, keepdims=True)
    parts = flat / jnp.where(scales > 0, scales, 1.0)
    below = jnp.clip(jnp.floor(levels.position(parts)), 0, _LAST - 1)
    low, high = levels.level(below), levels.level(below + 1)
    above_it = (parts - low) / (high - low)
    stochastic = rounding == "stochastic"
    bound = jax.random.uniform(key, flat.shape) if stochastic else 0.5
    codes = below + (above_it > bound)
    if rounding == "feedback":
        total = jnp.sum(levels.level(codes), axis=1, keepdims=True)
        lost = jnp.sum(parts, axis=1, keepdims=True) / jnp.where(total > 0, total, 1.0)
        scales = scales * lost
    return Blocks(codes.astype(jnp.uint8), scales)


def restore(stored: Any, storage: str, shape: tuple[int, ...]) -> jax.Array:
    """A tensor's sum, float32, from what is stored."""
    if not isinstance(stored, Blocks):
        return jnp.broadcast_to(stored.astype(jnp.float32), shape)
    flat = stored.scales * LEVELS[storage].level(stored.codes.astype(jnp.float32))
    return flat.ravel()[: math.prod(shape)].reshape(shape)


_TITLES = {
    "tensor": "one a tensor",
    "bfloat16": "bfloat16",
    "linear": "8 bits, linear",
    "square": "8 bits, square",
    "logarithmic": "8 bits, logarithmic",
}
_ROUNDING_TITLES = {
    "nearest": "",
    "stochastic": ", rounded by chance",
    "feedback": ", error into the scale",
}


def _sweep(storage: str, rounding: str) -> Sweep:
    def phases(sequence: TaskSequence, rate: float) -> tuple[Phase, ...]:
        stored = dict(storage=storage, rounding=rounding)
        return collect(sequence, rate, classp_stored, **stored)

    return Sweep(
        f"classp_{storage}" + f"_{rounding}" * (rounding != "nearest"),
        f"CLASSP, sum: {_TITLES[storage]}{_ROUNDING_TITLES[rounding]}",
        "α",
        (0.01, 0.05, 0.1, 0.2, 0.4),
        phases,
        FAMILY,
        group="stored",
    )


SWEEPS = [
    *(_sweep(storage, "nearest") for storage in _TITLES),
    *(
        _sweep(storage, "stochastic")
        for storage in ("bfloat16", "linear", "square", "logarithmic")
    ),
    _sweep("linear", "feedback"),
]
