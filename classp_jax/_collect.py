"""Collects gradient sums in a pass over data that leaves the weights as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import optax

from classp_jax import _hyperparameters


def collect(
    optimizer: optax.GradientTransformation,
    loss_fn: Callable[[optax.Params, Any], jax.Array],
    opt_state: optax.OptState,
    params: optax.Params,
    batches: Iterable[Any],
) -> optax.OptState:
    r"""Collects gradient sums in a pass over data that leaves the weights as they are.

    Use it for a model that somebody else has trained, with data that represent what it
    knows. Each batch's gradient goes to ``optimizer.update``, and the updates are
    dropped. :func:`classp` collects its per-weight sums, :func:`classp_gram` its
    per-direction sums. What is chained in front, such as clipping, acts on the
    gradients as it does in training.

    The whole state advances as in training, including momentum and the step counters
    that schedules depend on. To take over only the sums, pass them to
    :func:`classp_jax.interop.with_grad_sum`.

    At weights that fit the data, gradients are smaller than they were in training, and
    so are the sums. More batches protect more. If there are no labels, the loss can
    draw them from the model. With the mean loss of :math:`B` examples, the squared
    gradients of :math:`T` batches then sum up to :math:`F T / B` on average, where
    :math:`F` is the diagonal of the Fisher information.

    Each call compiles the program, once for all batches of the same shapes.

    Args:
      optimizer: any Optax optimizer.
      loss_fn: a function called as ``loss_fn(params, batch)``, which returns a scalar.
        ``update`` gets that as ``value``.
      opt_state: the state to begin with: ``optimizer.init(params)``, or one that has
        collected before. It isn't changed.
      params: the weights at which to take the gradients.
      batches: an iterable of pytrees of arrays, which is read once.

    Returns:
      The new state, like ``opt_state``; continue with it.

    Raises:
      ValueError: if there is no batch, as in a generator that has been read before.
      TypeError: if ``optimizer`` isn't a transformation, or ``loss_fn`` isn't a
        function or doesn't return a scalar.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from classp_jax import average_grad_sum, classp, collect
      >>> def loss_fn(params, batch): return jnp.mean((batch @ params) ** 2)
      >>> optimizer, params = classp(0.1), jnp.array([1.0, -1.0])
      >>> batches = [jnp.array([[2.0, 1.0]]), jnp.array([[0.0, 3.0]])]
      >>> opt_state = optimizer.init(params)
      >>> opt_state = collect(optimizer, loss_fn, opt_state, params, batches)
      >>> print(average_grad_sum(opt_state, per_tensor=True)[""])
      12.0

      With labels drawn from the model:

      >>> def loss_fn(params, batch):
      ...     inputs, key = batch
      ...     logits = inputs @ params
      ...     labels = jax.random.bernoulli(key, jax.nn.sigmoid(logits))
      ...     return optax.sigmoid_binary_cross_entropy(logits, labels).mean()
      >>> keys = jax.random.split(jax.random.key(0), len(batches))
      >>> opt_state = collect(
      ...     optimizer, loss_fn, opt_state, params, zip(batches, keys)
      ... )

    .. seealso:: :func:`classp_jax.baselines.fisher_diagonal`
    """
    _hyperparameters.check_transformation("optimizer", optimizer)
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function, got {loss_fn!r}.")
    update = optax.with_extra_args_support(optimizer).update

    @jax.jit
    def step(
        opt_state: optax.OptState, params: optax.Params, batch: Any
    ) -> optax.OptState:
        value, grads = jax.value_and_grad(loss_fn)(params, batch)
        return update(grads, opt_state, params, value=value)[1]

    number = 0
    for batch in batches:
        opt_state = step(opt_state, params, batch)
        number += 1
    if not number:
        raise ValueError("batches must hold at least one batch, got none.")
    return opt_state
