"""The diagonal of the Fisher information, from the gradients of single examples."""

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


def fisher_diagonal(
    loss_fn: Callable[..., jax.typing.ArrayLike],
    params: optax.Params,
    *examples: Any,
    batch_size: int = 32,
) -> optax.Params:
    r"""Computes the diagonal of the Fisher information, as a mean over examples.

    .. math::

      F_i = \frac{1}{N} \sum_{n=1}^{N}
        \left( \frac{\partial \ell(w, x_n)}{\partial w_i} \right)^2

    It squares the gradient of each example, not that of a batch. With the labels of the
    data this is the *empirical* Fisher; for the true one, draw the labels from the
    model.

    Each call compiles its program anew. So it sees the present values of everything
    that ``loss_fn`` closes over. To compile once for many tasks, use
    ``jax.jit(functools.partial(fisher_diagonal, loss_fn))``, and pass everything that
    differs between tasks with the examples: a compiled program keeps the closed-over
    values of its first call.

    If the examples are sharded along their leading axis, each device takes the
    gradients of its own, and one sum at the end combines them. Inside a compiled
    program the sharding is known only if the mesh has explicit axes. Otherwise let
    ``batch_size`` divide the number of examples and be a multiple of the number of
    devices. Inside :func:`jax.shard_map` the result is the mean over a device's own
    examples; :func:`jax.lax.pmean` makes it the mean over all.

    Args:
      loss_fn: the loss :math:`\ell` of one example, such as its negative log
        likelihood, called as ``loss_fn(params, *example)``; it returns a scalar. It
        may close over other values, such as a task's mask.
      params: the weights at which to take the gradients.
      *examples: arrays, or pytrees of them, whose leading axis counts the examples.
      batch_size: how many gradients are in memory at once, on all devices together, but
        at least one per device. It needn't divide the number of examples.

    Returns:
      A pytree like ``params``, in at least float32, on the devices of ``params``.

    Raises:
      ValueError: if ``examples`` disagree in their number or there are none,
        ``batch_size`` is below 1, or a parameter is complex.
      TypeError: if ``loss_fn`` isn't a function or doesn't return a scalar, a parameter
        isn't floating, or ``batch_size`` isn't an integer.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax.baselines import fisher_diagonal
      >>> def loss_fn(params, x, y): return 0.5 * (params["w"] * x - y) ** 2
      >>> x, y = jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0])
      >>> fisher = fisher_diagonal(loss_fn, {"w": jnp.array(1.0)}, x, y)
      >>> print(fisher["w"])  # the gradients are 1 and 4
      8.5

    References:
      Kirkpatrick et al., `Overcoming catastrophic forgetting in neural networks
      <https://arxiv.org/abs/1612.00796>`_, 2017: Section 2.

    .. seealso:: :func:`ewc_penalty`
    """
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function, got {loss_fn!r}.")
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
        return _mean_squared_gradient(loss_fn, batch_size, shards, params, examples)

    shards = _parts(examples)
    return jax.tree.map(placed_like, params, mean(params, examples))


def _mean_squared_gradient(
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

        def sum_squares(s: jax.Array, g: jax.Array) -> jax.Array:
            where = counts.reshape(-1, *[1] * (g.ndim - 1))
            squares = jnp.where(where, jnp.square(g.astype(s.dtype)), 0)
            return s + jnp.sum(squares.reshape(shards, share, *g.shape[1:]), axis=1)

        return jax.tree.map(sum_squares, total, grads), None

    zeros = jax.tree.map(
        lambda s: jnp.broadcast_to(s, (shards, *s.shape)), wide_zeros(params)
    )
    total, _ = jax.lax.scan(add, zeros, jnp.arange(steps))
    return jax.tree.map(lambda s: jnp.sum(s, axis=0) / number, total)


def _each_devices_own(params: optax.Params, examples: tuple[Any, ...]) -> optax.Params:
    """Parameters that differ among devices, to JAX, wherever the examples do.

    Inside :func:`jax.shard_map` a gradient by what all devices share is their sum, and
    would be squared as such.
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
        fisher: optax.Params = free(params, examples)
        return fisher

    return automatic
