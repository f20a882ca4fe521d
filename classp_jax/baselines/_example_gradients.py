"""Means over examples of what each example's own gradient says of a weight."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from classp_jax import _hyperparameters
from classp_jax._arrays import refuse_complex
from classp_jax._placement import placed_like
from classp_jax.baselines._penalty import refuse_integers, wide_zeros


def check_function(name: str, value: Any) -> None:
    """Raises a ``TypeError`` unless ``value`` can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r}.")


def mean_over_examples(
    term: Callable[[jax.Array], jax.Array],
    loss_fn: Callable[..., jax.typing.ArrayLike],
    params: optax.Params,
    examples: tuple[Any, ...],
    batch_size: int,
) -> optax.Params:
    """The mean over examples of a term of each example's own gradient.

    Args:
      term: of a gradient, element by element, such as its square.
      loss_fn: called as ``loss_fn(params, *example)``; it returns a scalar.
      params: the weights at which to take the gradients.
      examples: arrays, or pytrees of them, whose leading axis counts the examples.
      batch_size: how many gradients are in memory at once.

    Returns:
      A pytree like ``params``, in at least float32, on the devices of ``params``.

    Raises:
      ValueError: as :func:`fisher_diagonal`.
      TypeError: as :func:`fisher_diagonal`, but for ``loss_fn``.
    """
    refuse_complex(params)
    refuse_integers("parameter", params)
    _hyperparameters.check_positive_int("batch_size", batch_size)
    shapes = {jnp.shape(x) for x in jax.tree.leaves(examples)}
    if not all(shapes) or len({shape[0] for shape in shapes}) != 1:
        raise ValueError(
            "examples must be arrays that agree in their leading axis, one entry an"
            f" example; got the shapes {sorted(shapes)}."
        )
    (number,) = {shape[0] for shape in shapes}
    if number == 0:
        raise ValueError("examples must hold at least one example, got none.")

    # Compiled anew at each call: a program that is kept would know what the loss reads
    # from outside as it was, and keep it alive.
    @jax.jit
    @functools.partial(_with_cut_axes_automatic, examples)
    def mean(params: optax.Params, examples: tuple[Any, ...]) -> optax.Params:
        return _mean_term(term, loss_fn, batch_size, shards, params, examples)

    shards = _parts(examples)
    return jax.tree.map(placed_like, params, mean(params, examples))


def _mean_term(
    term: Callable[[jax.Array], jax.Array],
    loss_fn: Callable[..., jax.typing.ArrayLike],
    batch_size: int,
    shards: int,
    params: optax.Params,
    examples: tuple[Any, ...],
) -> optax.Params:
    number = len(jax.tree.leaves(examples)[0])
    params = _each_devices_own(params, examples)
    # A device has a share of each batch, out of its own examples, and a sum.
    own = number // shards
    steps = -(-own // max(batch_size // shards, 1))
    share = -(-own // steps)

    def rows(x: jax.Array) -> jax.Array:
        x = x.reshape(shards, own, *x.shape[1:])
        again = x[:, : share * steps - own]  # Filled up by some that aren't counted.
        x = jnp.concatenate([x, again], axis=1)
        return x.reshape(shards * share, steps, *x.shape[2:])

    examples = jax.tree.map(rows, examples)
    row = jnp.arange(shards * share) % share

    def add(total: optax.Params, step: jax.Array) -> tuple[optax.Params, None]:
        batch = jax.tree.map(lambda x: x[:, step], examples)
        grads = jax.vmap(lambda example: jax.grad(loss_fn)(params, *example))(batch)
        counts = row * steps + step < own

        def sum_terms(s: jax.Array, g: jax.Array) -> jax.Array:
            where = counts.reshape(-1, *[1] * (g.ndim - 1))
            terms = jnp.where(where, term(g.astype(s.dtype)), 0)
            return s + jnp.sum(terms.reshape(shards, share, *g.shape[1:]), axis=1)

        return jax.tree.map(sum_terms, total, grads), None

    zeros = jax.tree.map(
        lambda s: jnp.broadcast_to(s, (shards, *s.shape)), wide_zeros(params)
    )
    total, _ = jax.lax.scan(add, zeros, jnp.arange(steps))
    return jax.tree.map(lambda s: jnp.sum(s, axis=0) / number, total)


def _each_devices_own(params: optax.Params, examples: tuple[Any, ...]) -> optax.Params:
    """Parameters that differ among devices, to JAX, wherever the examples do.

    Inside :func:`jax.shard_map` a gradient by what all devices share is their sum, and
    would be taken as such.
    """
    types = [x.aval for x in jax.tree.leaves(examples)]
    # JAX calls it so, and called it vma before 0.10.
    types = [getattr(t, "manual_axis_type", None) or t for t in types]
    axes = {
        axis for t in types for axis in getattr(t, "varying", getattr(t, "vma", ()))
    }
    if not axes:
        return params
    differs = jax.lax.axis_index(tuple(axes)) < 0  # Never, which JAX doesn't know.
    return jax.tree.map(lambda p: jnp.where(differs, p, p), params)


def _parts(examples: tuple[Any, ...]) -> int:
    """Into how many parts devices have cut the axis of examples, as far as is known."""
    leaves = jax.tree.leaves(examples)
    return max(
        len(x) // sharding.shard_shape(x.shape)[0]
        for x, sharding in zip(leaves, _shardings(examples), strict=True)
    )


def _shardings(examples: tuple[Any, ...]) -> list[jax.sharding.Sharding]:
    """How arrays lie on devices, as far as is known."""
    somewhere = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    # Of what is traced the type says it, where the mesh has explicit axes.
    known = (
        x.aval if isinstance(x, jax.core.Tracer) else x
        for x in jax.tree.leaves(examples)
    )
    shardings = (getattr(x, "sharding", None) or somewhere for x in known)
    # Inside jax.shard_map an array is all that there is to see.
    return [
        somewhere if getattr(getattr(s, "mesh", None), "manual_axes", ()) else s
        for s in shardings
    ]


def _with_cut_axes_automatic(
    examples: tuple[Any, ...], mean: Callable[..., optax.Params]
) -> Callable[..., optax.Params]:
    """Leaves to the compiler the explicit axes of a mesh that the examples are cut on.

    JAX refuses to cut an axis of examples into batches otherwise.
    """
    explicit = {
        axis: sharding.mesh
        for sharding in _shardings(examples)
        if isinstance(sharding, NamedSharding)
        for axis in jax.tree.leaves(tuple(sharding.spec))
        if axis in getattr(sharding.mesh, "explicit_axes", ())
    }
    if not explicit:
        return mean
    mesh = next(iter(explicit.values()))

    def automatic(params: optax.Params, examples: tuple[Any, ...]) -> optax.Params:
        like_params = jax.tree.map(
            lambda p: NamedSharding(mesh, jax.typeof(p).sharding.spec), params
        )
        free = jax.sharding.auto_axes(
            mean, axes=tuple(explicit), out_sharding=like_params
        )
        of_all: optax.Params = free(params, examples)
        return of_all

    return automatic
