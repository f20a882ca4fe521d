"""The jitted train step and evaluation that the experiments share."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx


class TrainState(NamedTuple):
    """All that changes while training, as one pytree to jit, donate and save.

    Attributes:
      params: the model's ``nnx.Param`` state.
      opt_state: the optimizer's state.
      dropout_key: the random key of dropout, folded with the step.
      step: the number of steps so far.
    """

    params: nnx.State
    opt_state: Any
    dropout_key: jax.Array
    step: jax.Array


class Trainer:
    """The functions that train and evaluate a model, jitted.

    Args:
      model: an NNX module whose only variables are parameters, called as
        ``model(inputs, dropout_rngs=...)`` and returning logits.
      optimizer: any Optax transformation.
    """

    def __init__(self, model: nnx.Module, optimizer: optax.GradientTransformation):
        self._graphdef, self._params = nnx.split(model, nnx.Param)
        self._optimizer = optimizer

    def init(self, seed: int) -> TrainState:
        """The state before the first step, in buffers of its own."""
        params = jax.tree.map(jnp.copy, self._params)
        opt_state = self._optimizer.init(params)
        return TrainState(
            params, opt_state, jax.random.key(seed), jnp.zeros([], jnp.int32)
        )

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def train_steps(
        self,
        state: TrainState,
        inputs: jax.Array,
        labels: jax.Array,
        batches: jax.Array,
    ) -> tuple[TrainState, jax.Array]:
        """One :meth:`train_step` a batch, in one compiled loop.

        Args:
          state: the state before the steps; its buffers are donated.
          inputs: as for :meth:`train_step`.
          labels: as for :meth:`train_step`.
          batches: which examples to train on, (steps, batch), integer.

        Returns:
          The state after the steps and the loss before each of them, (steps,).
        """
        return jax.lax.scan(
            lambda state, batch: self.train_step(state, inputs, labels, batch),
            state,
            batches,
        )

    def train_step(
        self, state: TrainState, inputs: jax.Array, labels: jax.Array, batch: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        """One step on the mean cross-entropy of a batch; a pure function, to be jitted.

        Args:
          state: the state before the step.
          inputs: all of a task's inputs, (n, ...), as the model takes them.
          labels: all of its classes, (n,), integer.
          batch: which examples to train on, (batch,), integer.

        Returns:
          The state after the step and the loss before it.
        """
        inputs, labels = inputs[batch], labels[batch]
        key = jax.random.fold_in(state.dropout_key, state.step)

        def loss_fn(params: nnx.State) -> jax.Array:
            model = nnx.merge(self._graphdef, params)
            logits = model(inputs, dropout_rngs=nnx.Rngs(dropout=key))
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, labels
            ).mean()

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        updates, opt_state = self._optimizer.update(
            grads, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, opt_state, state.dropout_key, state.step + 1), loss

    def accuracy(
        self, params: nnx.State, inputs: jax.Array, labels: jax.Array
    ) -> jax.Array:
        """The share of inputs classified correctly, with dropout off."""
        return _accuracy(self._graphdef, params, inputs, labels)


# Not a method of one trainer: all those of one model share its compilation.
@functools.partial(jax.jit, static_argnums=0)
def _accuracy(
    graphdef: nnx.GraphDef, params: nnx.State, inputs: jax.Array, labels: jax.Array
) -> jax.Array:
    logits = nnx.merge(graphdef, params)(inputs)
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels)
