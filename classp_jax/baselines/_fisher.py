"""The diagonal of the Fisher information, from the gradients of single examples."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from classp_jax.baselines._example_gradients import check_function, mean_over_examples


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
    check_function("loss_fn", loss_fn)
    return mean_over_examples(jnp.square, loss_fn, params, examples, batch_size)
