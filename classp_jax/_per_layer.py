"""Treats each of the layers stacked in one tensor as a tensor of its own."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from classp_jax import _hyperparameters, _placement
from classp_jax._arrays import is_key


def per_layer(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Applies a transformation to each layer of a stack separately.

    Layers that a scan runs through are stacked: the first axis of each tensor counts
    the layers. Linen's ``nn.scan``, and ``nnx.vmap`` with ``nnx.scan``, make such
    stacks. A ``relative`` threshold, the scope ``"tensor"`` and ``factored`` sums
    depend on a whole tensor, and take the stack for one tensor. ``factored`` would even
    factor the biases. ``per_layer(classp(0.1, 10.0, relative=True))`` treats every
    layer as if it weren't stacked.

    All tensors must be stacks of the same number of layers. Separate others, such as an
    embedding, with :func:`optax.partition`.

    Args:
      inner: the transformation for one layer. All layers get the same extra arguments.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`. Its state is
      that of ``inner``, with an axis of layers in front of each array. Where that has a
      random key, each layer gets one of its own.

    Raises:
      TypeError: if ``inner`` isn't a transformation.
      ValueError: in ``init`` and ``update``, if a tensor has no axis, or a different
        number of layers than the others.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from classp_jax import classp, per_layer
      >>> relative = classp(1.0, threshold=1.0, eps=1.0, relative=True)
      >>> optimizer = optax.partition(
      ...     {"stacked": per_layer(relative), "single": relative},
      ...     {"layers": "stacked", "head": "single"})
      >>> layers = jnp.array([[1.0, 3.0], [10.0, 30.0]])
      >>> params = {"layers": layers, "head": jnp.ones(2)}
      >>> updates, _ = optimizer.update(params, optimizer.init(params))
      >>> print(updates["layers"] != 0)  # as one stack, only the 30 would pass
      [[False  True]
       [False  True]]
    """
    _hyperparameters.check_transformation("inner", inner)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> optax.OptState:
        if not jax.tree.leaves(params):  # A mask has left no tensor.
            return inner.init(params)
        params = jax.tree.map(
            lambda p: jnp.zeros_like(p) if isinstance(p, jax.ShapeDtypeStruct) else p,
            params,
        )
        # Compiled, as this puts the state where the parameters are.
        return jax.jit(init_layers)(params)

    def init_layers(params: optax.Params) -> optax.OptState:
        return jax.tree.map(_own_key, jax.vmap(init_layer)(params))

    def init_layer(params: optax.Params) -> optax.OptState:
        # Over explicit mesh axes vmap wants all that it maps cut alike, counters too.
        tie = jnp.any(jnp.where(False, jax.tree.leaves(params)[0], 0))

        def tied(x: jax.Array) -> jax.Array:
            if jnp.ndim(x):
                return x
            if is_key(x):  # JAX 0.5 selects numbers only here.
                data, impl = jax.random.key_data(x), jax.random.key_impl(x)
                data = jnp.where(tie, data, data)
                key: jax.Array = jax.random.wrap_key_data(data, impl=impl)
                return key
            return jnp.where(tie, x, x)

        return jax.tree.map(tied, inner.init(params))

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        update = functools.partial(inner.update, **extra_args)
        is_stacked = any(jnp.ndim(x) for x in jax.tree.leaves((updates, state)))
        result: tuple[optax.Updates, optax.OptState] = (
            jax.vmap(update) if is_stacked else update
        )(updates, state, params)
        return result

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _own_key(x: jax.Array) -> jax.Array:
    """What a layer's number makes of its random key; other arrays as they are."""
    if not is_key(x):
        return x
    layers = _placement.cut_like(x, jnp.arange(len(x)))
    own: jax.Array = jax.vmap(jax.random.fold_in)(x, layers)
    return own
