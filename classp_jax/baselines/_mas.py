"""The importances of Memory Aware Synapses, from the outputs of single examples."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from classp_jax.baselines._example_gradients import check_function, mean_over_examples
from classp_jax.baselines._penalty import refuse_integers


def mas_importance(
    output_fn: Callable[..., Any],
    params: optax.Params,
    *examples: Any,
    batch_size: int = 32,
) -> optax.Params:
    r"""Computes the importances of Memory Aware Synapses (MAS), which need no labels.

    .. math::

      \Omega_i = \frac{1}{N} \sum_{n=1}^{N} \left|
        \frac{\partial \, \lVert f(w, x_n) \rVert_2^2}{\partial w_i} \right|

    A weight is important if a change of it changes the squared norm of the network's
    output. The penalty is that of EWC: pass the result to :func:`ewc_penalty` or
    :func:`set_penalty` as ``fisher``. The source's penalty is
    :math:`\lambda \sum_i \Omega_i (w_i - w^*_i)^2`, so ``strength`` is twice its
    :math:`\lambda`.

    As in the source, the absolute value is that of each example's own gradient. The
    authors' code takes that of a sum over a batch and divides by the number of
    examples, which is less wherever gradients differ in sign; it is the same with its
    option for batches of one. For a further task it adds the new importances to those
    so far, and sets the anchor to the present weights:
    ``jax.tree.map(jnp.add, so_far, new)``. An output layer of its own per task isn't
    penalized there: leave it out with :func:`optax.masked`.

    Compilation, sharded examples and :func:`jax.shard_map` are as for
    :func:`fisher_diagonal`.

    Args:
      output_fn: the network's output :math:`f` of one example, such as its logits,
        called as ``output_fn(params, *example)``; it returns an array of any shape, or
        a pytree of arrays. It may close over other values.
      params: the weights at which to take the gradients.
      *examples: arrays, or pytrees of them, whose leading axis counts the examples.
      batch_size: how many gradients are in memory at once, on all devices together, but
        at least one per device. It needn't divide the number of examples.

    Returns:
      A pytree like ``params``, in at least float32, on the devices of ``params``.

    Raises:
      ValueError: if ``examples`` disagree in their number or there are none,
        ``batch_size`` is below 1, or a parameter is complex.
      TypeError: if ``output_fn`` isn't a function, an output or a parameter isn't
        floating, or ``batch_size`` isn't an integer.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax.baselines import mas_importance
      >>> def output_fn(params, x): return params["w"] * x
      >>> x = jnp.array([[1.0, 0.0], [0.0, -2.0]])
      >>> importance = mas_importance(output_fn, {"w": jnp.array([1.0, -1.0])}, x)
      >>> print(importance["w"])  # the gradients are 2 w x²: (2, 0) and (0, -8)
      [1. 4.]

    References:
      Aljundi et al., `Memory Aware Synapses: Learning what (not) to forget
      <https://arxiv.org/abs/1711.09601>`_, 2018: Section 4.1 (importances), with the
      squared norm of the output.

    .. seealso:: :func:`ewc_penalty`, :func:`fisher_diagonal`, :func:`set_penalty`
    """
    check_function("output_fn", output_fn)

    def squared_norm(params: optax.Params, *example: Any) -> jax.typing.ArrayLike:
        output = output_fn(params, *example)
        refuse_integers("output", output)
        return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(output))

    return mean_over_examples(jnp.abs, squared_norm, params, examples, batch_size)
