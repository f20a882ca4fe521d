"""Which classes the training loss is over; evaluation is over all."""

import jax
import jax.numpy as jnp

LOSSES = {
    "all": "the cross-entropy over all classes",
    "present": "over those of the tasks that the batch has examples of",
}
"""What each is, by its name; rows of the first have none."""


def mask_absent(
    logits: jax.Array, labels: jax.Array, tasks: tuple[int, ...]
) -> jax.Array:
    """Leaves the classes of the tasks that a batch has examples of.

    Without replay these are the present task's, and those of earlier tasks are no more
    pushed down: the labels trick of Zeno et al. 2018 (https://arxiv.org/abs/1803.10123).

    Args:
      logits: (batch, classes).
      labels: (batch,), integer.
      tasks: of each class the task that it comes with, from 0 on.

    Returns:
      The logits; those of other classes are minus infinity.
    """
    of_class = jnp.array(tasks)
    present = jnp.zeros(len(tasks), bool).at[of_class[labels]].set(True)
    return jnp.where(present[of_class], logits, -jnp.inf)
