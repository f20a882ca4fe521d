"""The jitted train step that the experiments share, and the state that it changes."""

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from classp_jax import update_density
from examples.runner import evaluation, sharding
from examples.runner.arrays import is_key
from examples.runner.data import Array
from examples.runner.evaluation import Classifier, Evaluation, Params, Preprocess
from examples.runner.layers import Layer
from examples.runner.losses import mask_absent
from examples.runner.stored import Batches, Stored


class TrainState(NamedTuple):
    """All that changes while training, as one pytree to jit, donate and save.

    Attributes:
      params: the model's ``nnx.Param`` state.
      opt_state: the optimizer's state.
      dropout_key: the random key of dropout, folded with the step.
      step: the number of steps so far.
    """

    params: Params
    opt_state: Any
    dropout_key: jax.Array
    step: jax.Array


class Trainer:
    """The functions that train and evaluate a model, jitted.

    Args:
      make_model: makes, from its random streams, an NNX module whose only variables
        are parameters, called as ``model(inputs, dropout_rngs=...)`` and returning
        logits.
      optimizer: any Optax transformation; one whose ``update`` names an argument
        ``layer_inputs`` is given the examples of the step: what its layers see, by a
        function, ``labels``, and which are ``present``.
      preprocess: applied to each batch of inputs inside the compiled step.
      mesh: the devices to train on, from :func:`examples.runner.sharding.make_mesh`; by
        default one.
      dtype: of the weights and activations; losses are float32 in any case, and so
        is what CLASSP collects.
      heads: of each class the head that it belongs to; an example is then classified
        among the classes of its label's head alone, in training and evaluation, as in
        task-incremental learning. By default all are of one head.
      loss_tasks: of each class the task that it comes with, from 0 on; the training
        loss is then over the classes of the tasks that a batch has examples of, as
        :func:`examples.runner.losses.mask_absent` says. By default it is over all.
      measure: what :meth:`evaluate` gives, of
        :data:`examples.runner.evaluation.MEASURES`.
    """

    def __init__(
        self,
        make_model: Callable[[nnx.Rngs], nnx.Module],
        optimizer: optax.GradientTransformation,
        preprocess: Callable[[jax.Array], jax.Array] = lambda inputs: inputs,
        mesh: jax.sharding.Mesh | None = None,
        dtype: jax.typing.DTypeLike = jnp.float32,
        heads: tuple[int, ...] | None = None,
        loss_tasks: tuple[int, ...] | None = None,
        measure: str = "accuracy",
    ):
        self._make_model = make_model
        self._optimizer = optax.with_extra_args_support(optimizer)
        asked_for = inspect.signature(self._optimizer.update).parameters
        self._takes_examples = "layer_inputs" in asked_for
        graphdef = nnx.graphdef(nnx.eval_shape(lambda: make_model(nnx.Rngs(0))))
        self.classifier = Classifier(
            graphdef, Preprocess(preprocess, mesh, dtype), heads, measure
        )
        self._mesh = mesh
        self._dtype = dtype
        self._loss_tasks = loss_tasks

    @functools.cached_property
    def shapes(self) -> TrainState:
        """Of the state's arrays, without computing any."""
        shapes: TrainState = jax.eval_shape(lambda: self.init(0))
        return shapes

    def logits_shape(
        self, inputs: Array | jax.ShapeDtypeStruct
    ) -> jax.ShapeDtypeStruct:
        """Of what the model makes of inputs, (n, ...), without computing it."""
        logits: jax.ShapeDtypeStruct = jax.eval_shape(
            lambda params, inputs: self.classifier.logits(params, inputs, None),
            self.shapes.params,
            inputs,
        )
        return logits

    def init(self, seed: int) -> TrainState:
        """The state before the first step, in buffers of its own."""
        params = nnx.state(self._make_model(nnx.Rngs(seed)), nnx.Param)
        params = jax.tree.map(lambda p: p.astype(self._dtype), params)
        # Noise of an optimizer's own is another with each seed, as dropout is.
        opt_state = jax.tree.map(
            lambda x: jax.random.fold_in(x, seed) if is_key(x) else x,
            self._optimizer.init(params),
        )
        state = TrainState(
            params,
            opt_state,
            jax.random.key(seed),
            jnp.zeros([], jnp.int32),
        )
        placed: TrainState = sharding.place(state, self._mesh)
        return placed

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def train_steps(
        self,
        state: TrainState,
        inputs: jax.Array,
        labels: jax.Array,
        batches: jax.Array,
        steps: jax.typing.ArrayLike | None = None,
    ) -> tuple[TrainState, jax.Array]:
        """One :meth:`train_step` a batch, in one compiled loop.

        Args:
          state: the state before the steps; its buffers are donated.
          inputs: as for :meth:`train_step`.
          labels: as for :meth:`train_step`.
          batches: which examples to train on, (most, batch), integer.
          steps: on how many of the batches, the first ones; by default on all. Another
            number needs no other program, another shape does.

        Returns:
          The state after the steps and the loss before each of them, (most,), with
          zeros behind the last.
        """
        return self._each_step(
            lambda state, i: self.train_step(state, inputs, labels, batches[i]),
            state,
            len(batches),
            len(batches) if steps is None else steps,
        )

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def train_read(
        self, state: TrainState, read: Batches, steps: jax.typing.ArrayLike
    ) -> tuple[TrainState, jax.Array]:
        """As :meth:`train_steps`, on batches that were read from where they're stored.

        Args:
          state: the state before the steps; its buffers are donated.
          read: the batches.
          steps: on how many of them, the first ones.

        Returns:
          As :meth:`train_steps`.
        """
        return self._each_step(
            lambda state, i: self._step(state, jax.tree.map(lambda x: x[i], read)),
            state,
            len(read.labels),
            steps,
        )

    def train_step(
        self, state: TrainState, inputs: jax.Array, labels: jax.Array, batch: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        """One step on the mean cross-entropy of a batch; a pure function, to be jitted.

        Args:
          state: the state before the step.
          inputs: all of a task's inputs, (n, ...), as ``preprocess`` takes them.
          labels: all of its classes, (n,) or (n, positions), integer; the loss of an
            example is the mean over its positions.
          batch: which examples to train on, (batch,), integer; behind the first -1
            for none, where fewer are left.

        Returns:
          The state after the step and the loss before it.
        """
        return self._step(state, self._gathered(inputs, labels, batch))

    @functools.partial(jax.jit, static_argnums=0)
    def update_density(
        self, state: TrainState, inputs: jax.Array, labels: jax.Array, batch: jax.Array
    ) -> jax.Array:
        """The share of weights that :meth:`train_step` would move, 0 to 1."""
        _, updates, _ = self._update(state, self._gathered(inputs, labels, batch))
        return update_density(updates)

    def example_loss(
        self, params: Params, example: jax.Array, label: jax.Array
    ) -> jax.Array:
        """The cross-entropy of a single example with dropout off."""
        return self._loss(params, example[None], label[None], jnp.ones(1), None)

    def evaluate(
        self,
        params: Params,
        inputs: Array | Stored,
        labels: Array,
        dropout_key: jax.Array | None = None,
    ) -> Evaluation:
        """The mean of the measure over all labels.

        Args:
          params: the model's parameters.
          inputs: (n, ...), as ``preprocess`` takes them.
          labels: (n,) or (n, positions), integer.
          dropout_key: to evaluate with dropout left on as well; what precedes the
            first dropout is computed once for both.

        Returns:
          With dropout off, and on.
        """
        # All trainers of one model share the compilation.
        of = self.classifier
        return evaluation.evaluate(of, params, inputs, labels, dropout_key)

    def _loss(
        self,
        params: Params,
        inputs: jax.Array,
        labels: jax.Array,
        weights: jax.Array,
        dropout_key: jax.Array | None,
    ) -> jax.Array:
        logits = self.classifier.logits(params, inputs, dropout_key)
        logits = self.classifier.mask_other_heads(logits.astype(jnp.float32), labels)
        if self._loss_tasks is not None:
            logits = mask_absent(logits, labels, self._loss_tasks)
        losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(
            logits, labels
        )
        if losses.ndim > 1:
            losses = losses.mean(-1)
        return (losses * weights).sum()

    def _each_step(
        self,
        step: Callable[[TrainState, jax.Array], tuple[TrainState, jax.Array]],
        state: TrainState,
        most: int,
        steps: jax.typing.ArrayLike,
    ) -> tuple[TrainState, jax.Array]:
        def one(i: jax.Array, so_far: Any) -> Any:
            state, losses = so_far
            state, loss = step(state, i)
            return state, losses.at[i].set(loss)

        losses = jnp.zeros(most, jnp.float32)
        state, losses = jax.lax.fori_loop(0, steps, one, (state, losses))
        return sharding.constrain(state, self._mesh), losses

    def _gathered(
        self, inputs: jax.Array, labels: jax.Array, batch: jax.Array
    ) -> Batches:
        present = batch >= 0
        batch = jnp.where(present, batch, batch[0])  # Nothing of another task's.
        # Not cut like the inputs, so that no device asks the others for any of these.
        batch = sharding.constrain(batch, self._mesh)
        return Batches(inputs[batch], labels[batch], present)

    def _step(self, state: TrainState, batch: Batches) -> tuple[TrainState, jax.Array]:
        loss, updates, opt_state = self._update(state, batch)
        params = optax.apply_updates(state.params, updates)
        params, opt_state = sharding.constrain((params, opt_state), self._mesh)
        return TrainState(params, opt_state, state.dropout_key, state.step + 1), loss

    def _update(
        self, state: TrainState, batch: Batches
    ) -> tuple[jax.Array, optax.Updates, optax.OptState]:
        key = jax.random.fold_in(state.dropout_key, state.step)
        inputs, labels, present = batch
        weights = present.astype(jnp.float32) / present.sum()
        weights = sharding.constrain(weights, self._mesh)  # As the batch.

        def loss_of(params: Params) -> jax.Array:
            return self._loss(params, inputs, labels, weights, key)

        def layer_inputs() -> OrderedDict[Layer, jax.Array]:
            return self.classifier.layer_inputs(state.params, inputs, key)

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        # Line searches refuse what isn't theirs; others ignore it, at no cost.
        extra_args = dict(value=loss, grad=grads, value_fn=loss_of)
        if self._takes_examples:
            extra_args = dict(layer_inputs=layer_inputs, labels=labels, present=present)
        return loss, *self._optimizer.update(
            grads, state.opt_state, state.params, **extra_args
        )
