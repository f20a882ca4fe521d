"""Several seeds side by side in one compiled program."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from examples.runner.data import Split
from examples.runner.stored import Batches
from examples.runner.trainer import Trainer, TrainState


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_steps(
    trainer: Trainer,
    states: TrainState,
    data: Split,
    batches: np.ndarray,
    steps: int,
) -> tuple[TrainState, jax.Array]:
    """:meth:`Trainer.train_steps` of each seed, without a copy of their states.

    Args:
      trainer: the trainer.
      states: of the seeds, along the first axis; their buffers are donated.
      data: all tasks' examples to train on.
      batches: (seeds, most, batch), integer.
      steps: on how many of the batches.

    Returns:
      The states, and the losses, (seeds, most).
    """
    trained: tuple[TrainState, jax.Array] = each_seed(
        lambda x: trainer.train_steps(x[0], *data, x[1], steps), (states, batches)
    )
    return trained


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_read(
    trainer: Trainer, states: TrainState, read: Batches, steps: int
) -> tuple[TrainState, jax.Array]:
    """:meth:`Trainer.train_read` of each seed, without a copy of their states.

    Args:
      trainer: the trainer.
      states: of the seeds, along the first axis; their buffers are donated.
      read: batches of each seed, likewise.
      steps: on how many of the batches.

    Returns:
      The states, and the losses, (seeds, most).
    """
    trained: tuple[TrainState, jax.Array] = each_seed(
        lambda x: trainer.train_read(*x, steps), (states, read)
    )
    return trained


def stacked(states: list[TrainState]) -> TrainState:
    """The states of several seeds as one, along a first axis."""
    together: TrainState = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    return together


def each_seed(f: Callable[..., Any], of_all: Any) -> Any:
    """Calls a function for each seed, without a further axis for one alone.

    Args:
      f: the function.
      of_all: its argument, a pytree of several seeds' along the first axis.

    Returns:
      What it gives, likewise.
    """
    if len(jax.tree.leaves(of_all)[0]) > 1:
        return jax.vmap(f)(of_all)
    alone = f(jax.tree.map(lambda x: x[0], of_all))
    return jax.tree.map(lambda x: x[None], alone)
