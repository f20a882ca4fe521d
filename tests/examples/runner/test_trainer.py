"""The jitted train step and the evaluation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import classp_jax
from examples.models.cnn import CNN
from examples.runner.trainer import Trainer
from tests.examples.helpers import (
    preprocess,
    random_split,
)
from tests.helpers import Network


def test_training_learns_and_draws_new_dropout_each_step():
    rng = np.random.default_rng(0)
    data = jnp.asarray(rng.normal(size=(8, 28, 28, 1)), jnp.float32), jnp.arange(8)
    batches = np.tile(np.arange(8), (30, 1))
    trainer = Trainer(CNN, classp_jax.classp(0.0))
    _, losses = trainer.train_steps(trainer.init(0), *data, batches[:2])
    assert losses[0] != losses[1]  # The rate is 0: only the dropout has changed.

    trainer = Trainer(CNN, classp_jax.classp(0.1, apply_decay=False))
    state, _ = trainer.train_steps(trainer.init(0), *data, batches)
    assert trainer.evaluate(state.params, *data).dropout_off == 1.0
    one_by_one, train_step = trainer.init(0), jax.jit(trainer.train_step)
    for batch in batches[:3]:
        one_by_one, loss = train_step(one_by_one, *data, batch)
    _, losses = trainer.train_steps(trainer.init(0), *data, batches, 3)
    np.testing.assert_allclose(losses[2], loss, rtol=1e-4)


def test_a_batch_with_none_in_it_is_a_smaller_one(experiment):
    trainer = Trainer(experiment.make_model, optax.sgd(0.1), experiment.preprocess)
    data = experiment.tasks["z"].train
    batch, train_step = np.arange(10), jax.jit(trainer.train_step)

    def step(batch):
        state, loss = train_step(trainer.init(0), *data, batch)
        return state.params, loss

    few = step(batch)
    padded = np.pad(batch, (0, 5), constant_values=-1)
    chex.assert_trees_all_close(step(padded), few, rtol=1e-5, atol=1e-7)
    whole = step(np.arange(15))
    assert abs(float(whole[1] - few[1])) > 1e-3


def test_what_is_absent_from_a_batch_may_be_anything(experiment):
    trainer = Trainer(experiment.make_model, optax.sgd(0.1), lambda inputs: inputs)
    inputs = jnp.ones((3, *experiment.tasks["z"].train.inputs.shape[1:]))
    inputs = inputs.at[-1].set(jnp.nan)
    batch = np.array([0, 1, -1])
    train_step = jax.jit(trainer.train_step)
    state, loss = train_step(trainer.init(0), inputs, np.arange(3), batch)
    assert np.isfinite(loss)
    chex.assert_tree_all_finite(state.params)


def test_heads_part_the_classes():
    """A class of another head is neither trained nor named."""
    inputs, labels = map(jnp.asarray, random_split(30, 0))
    trainer = Trainer(Network, optax.sgd(0.1), preprocess, heads=(0, 1, 0))
    params = trainer.init(0).params
    logits = trainer.classifier.logits(params, inputs, None)
    of_two = jnp.array([0, 2])[jnp.argmax(logits[:, ::2], -1)]
    right = jnp.where(labels == 1, True, of_two == labels)
    assert trainer.evaluate(params, inputs, labels).dropout_off == jnp.mean(right)
    for head, member, others in ((0, 2, [1]), (1, 1, [0, 2])):
        label = jnp.array(member)
        grads = jax.grad(trainer.example_loss)(params, inputs[0], label)
        bias = grads["out"]["bias"][...]
        assert not np.any(bias[np.array(others)]), head
        expected = jax.nn.log_softmax(logits[0, ::2])[1] if head == 0 else 0.0
        loss = trainer.example_loss(params, inputs[0], label)
        assert loss == pytest.approx(-float(expected), abs=1e-6)


def test_a_loss_over_present_classes_leaves_those_of_absent_tasks():
    """They are named all the same; and of an example alone its task's are present."""
    inputs, labels = map(jnp.asarray, random_split(30, 0))
    trainer = Trainer(Network, optax.sgd(0.1), preprocess, loss_tasks=(0, 1, 0))
    plain = Trainer(Network, optax.sgd(0.1), preprocess)
    of_task = np.flatnonzero(labels != 1)[:4]
    mixed = np.append(of_task, np.flatnonzero(labels == 1)[:1])
    for batch, moved in ((of_task, [True, False, True]), (mixed, 3 * [True])):
        before = trainer.init(0)
        after, loss = trainer.train_step(before, inputs, labels, batch)
        bias = [s.params["out"]["bias"][...] for s in (before, after)]
        np.testing.assert_array_equal(bias[0] != bias[1], moved)
        _, over_all = plain.train_step(plain.init(0), inputs, labels, batch)
        assert (loss < over_all) if not all(moved) else (loss == over_all)
    params = trainer.init(0).params
    accuracies = [of.evaluate(params, inputs, labels) for of in (trainer, plain)]
    assert accuracies[0] == accuracies[1]
    assert trainer.example_loss(params, inputs[0], jnp.array(1)) == 0


def test_accuracy_of_any_number_of_examples():
    trainer = Trainer(Network, optax.sgd(0.1), preprocess)
    params = trainer.init(0).params
    for n in (3, 50, 120):
        inputs, labels = map(jnp.asarray, random_split(n, n))
        logits = trainer.classifier.logits(params, inputs, None)
        expected = jnp.mean(jnp.argmax(logits, -1) == labels)
        off, on = trainer.evaluate(params, inputs, labels, jax.random.key(0))
        assert off == pytest.approx(float(expected))
        assert 0 <= on <= 1
        assert trainer.evaluate(params, inputs, labels).dropout_on is None
