"""OWM and GPM: gradients projected off what earlier tasks' layers saw."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from examples.methods.gpm import GPM
from examples.methods.owm import OWM
from examples.methods.projection import ProjectionState
from examples.runner import layers
from examples.runner.carry_over import states_of
from examples.runner.plan import Method
from examples.runner.run import Runner
from examples.runner.trainer import Trainer
from examples.runner.trainers import Trainers
from tests.examples.helpers import batches_of, final_state, phase, preprocess
from tests.helpers import Network

HIDDEN, OUT = ("hidden",), ("out",)


def matrices_of(state):
    (projection,) = states_of(state.opt_state, ProjectionState)
    return projection.matrices


def seen_by_hand(params, inputs):
    """What the layers of Network see, each with a 1 behind it; float64."""
    x = np.asarray(preprocess(np.asarray(inputs, np.float64)))
    weights = {k: np.asarray(v, np.float64) for k, v in by_hand(params).items()}
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    hidden = np.maximum(x @ weights[HIDDEN], 0)
    return {HIDDEN: x, OUT: np.concatenate([hidden, np.ones((len(x), 1))], 1)}


def by_hand(params):
    """Each layer's kernel with its bias as the last row, by name."""
    return {
        (name,): np.concatenate(
            [params[name]["kernel"][...], params[name]["bias"][...][None]]
        )
        for name in ("hidden", "out")
    }


def test_owm_is_the_papers_recursion(three_tasks, tmp_path):
    """Of batches' mean inputs of one task, then the next, one after the other."""
    runner = Runner(three_tasks, tmp_path)
    plugins = (OWM(regularizer=0.3, batch=1),)
    phases = (phase("z"), phase("b", plugins=plugins), phase("c", plugins=plugins))
    ends = [final_state(runner, phases[:n]) for n in (1, 2, 3)]
    by_task = dict(zip("zb", ends, strict=False))
    expected = {HIDDEN: np.eye(7), OUT: np.eye(9)}
    for task, state in by_task.items():
        seen = seen_by_hand(state.params, three_tasks.tasks[task].train.inputs)
        for layer, rows in seen.items():
            p = expected[layer]
            for x in rows[:, None]:
                k = p @ x.T / (0.3 + x @ p @ x.T)
                p = p - k @ x @ p
            expected[layer] = p
    actual = matrices_of(ends[-1])
    assert actual.keys() == expected.keys()
    for layer, matrix in expected.items():
        np.testing.assert_allclose(actual[layer], matrix, atol=1e-6)


def test_owm_takes_means_of_whole_batches(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    phases = (phase("z"), phase("b", plugins=(OWM(0.3, batch=40),)))
    before, after = (final_state(runner, phases[:n]) for n in (1, 2))
    seen = seen_by_hand(before.params, experiment.tasks["z"].train.inputs)
    for layer, rows in seen.items():
        x = rows.mean(0)
        p = np.eye(len(x)) - np.outer(x, x) / (0.3 + x @ x)
        np.testing.assert_allclose(matrices_of(after)[layer], p, atol=1e-6)


def test_gpm_holds_the_share_of_each_task(three_tasks, tmp_path):
    """By the papers' criterion, with singular vectors of what is left over."""
    runner = Runner(three_tasks, tmp_path)
    shares = {HIDDEN: 0.6, OUT: 0.9}
    plugins = (GPM(shares[HIDDEN], shares[OUT], samples=100),)
    phases = (phase("z"), phase("b", plugins=plugins), phase("c", plugins=plugins))
    ends = [final_state(runner, phases[:n]) for n in (1, 2, 3)]
    bases = {HIDDEN: np.zeros((7, 0)), OUT: np.zeros((9, 0))}
    for state, task in zip(ends, "zb", strict=False):
        seen = seen_by_hand(state.params, three_tasks.tasks[task].train.inputs)
        for layer, rows in seen.items():
            r, m = rows.T, bases[layer]
            left, singular, _ = np.linalg.svd(r - m @ m.T @ r, full_matrices=False)
            count = 0
            while np.sum((m @ m.T @ r) ** 2) + np.sum(singular[:count] ** 2) < shares[
                layer
            ] * np.sum(r**2):
                count += 1
            bases[layer] = np.concatenate([m, left[:, :count]], axis=1)
    for layer, m in bases.items():
        assert 0 < m.shape[1] < len(m)
        expected = np.eye(len(m)) - m @ m.T
        np.testing.assert_allclose(matrices_of(ends[-1])[layer], expected, atol=1e-6)


@pytest.mark.parametrize("plugin", [OWM(0.3, batch=8), GPM(0.6, 0.9)])
def test_steps_are_those_of_sgd_with_projected_gradients(experiment, tmp_path, plugin):
    runner = Runner(experiment._replace(batch_size=16), tmp_path)
    phases = (phase("z"), phase("b", epochs=1, plugins=(plugin,)))
    before, after = (final_state(runner, phases[:n]) for n in (1, 2))
    matrices = {k: np.asarray(p, np.float64) for k, p in matrices_of(after).items()}
    data = experiment.tasks["b"].train
    weights = {k: np.asarray(w, np.float64) for k, w in by_hand(before.params).items()}
    trainer = Trainer(Network, optax.sgd(0.1), preprocess)

    def loss(params, batch, key):
        inputs, labels = data.inputs[batch], data.labels[batch]
        logits = trainer.classifier.logits(params, inputs, key)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    params, step = before.params, int(before.step)
    of = experiment._replace(batch_size=16)
    for batch in batches_of(of, phases[1], 1, 0):
        # The batches count on from the first task's examples.
        own = batch - len(experiment.tasks["z"].train.labels)
        key = jax.random.fold_in(before.dropout_key, step)
        grads = by_hand(jax.grad(loss)(params, own, key))
        for layer, gradient in grads.items():
            weights[layer] = weights[layer] - 0.1 * matrices[layer] @ gradient
        params = layers.with_matrices(
            params, {k: jnp.asarray(w, jnp.float32) for k, w in weights.items()}
        )
        step += 1
    assert step - int(before.step) == 3
    for layer, expected in weights.items():
        actual = by_hand(after.params)[layer]
        np.testing.assert_allclose(actual, expected, atol=1e-6)
        assert np.max(np.abs(actual - by_hand(before.params)[layer])) > 1e-3


@pytest.mark.parametrize("plugin", [OWM(1e-6, batch=1), GPM(1 - 1e-7, 1 - 1e-7)])
def test_old_outputs_stay_to_first_order(experiment, tmp_path, plugin):
    """Along the projected gradient of other examples; along the gradient they move."""
    few = jax.tree.map(lambda x: x[:4], experiment.tasks["z"])
    tasks = {"z": few, "b": experiment.tasks["b"]}
    runner = Runner(experiment._replace(tasks=tasks, batch_size=4), tmp_path)
    phases = (phase("z"), phase("b", plugins=(plugin,)))
    before, after = (final_state(runner, phases[:n]) for n in (1, 2))
    trainer = Trainer(Network, optax.sgd(0.1), preprocess)
    new, params = tasks["b"].train, before.params

    def loss(params):
        logits = trainer.classifier.logits(params, new.inputs, None)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, new.labels)
        return losses.mean()

    grads = jax.grad(loss)(params)
    projected = layers.with_matrices(
        grads,
        {k: matrices_of(after)[k] @ g for k, g in layers.matrices(grads).items()},
    )

    def moved(direction):
        """The derivative of the old examples' outputs, a length of the direction."""
        _, along = jax.jvp(
            lambda params: trainer.classifier.logits(params, few.train.inputs, None),
            (params,),
            (direction,),
        )
        return float(jnp.linalg.norm(along) / optax.tree.norm(direction))

    assert float(optax.tree.norm(projected)) > 0.05 * float(optax.tree.norm(grads))
    assert moved(grads) > 0.3
    assert moved(projected) < 1e-4


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (OWM(0.0, batch=8), "regularizer must be above 0"),
        (OWM(1.0, batch=0), "batch must be an integer from 1"),
        (GPM(1.0, 0.9), "threshold must be between 0 and 1"),
        (GPM(0.9, 0.0), "others must be between 0 and 1"),
        (GPM(0.9, 0.9, samples=0), "samples must be an integer from 1"),
    ],
)
def test_refuses_what_is_no_setting(experiment, tmp_path, plugin, message):
    method = Method("M", (phase("z"), phase("b", plugins=(plugin,))))
    with pytest.raises(ValueError, match=message):
        Runner(experiment, tmp_path).run("m", method, [0])


def test_refuses_the_first_task(experiment, tmp_path):
    method = Method("M", (phase("z", plugins=(GPM(0.9, 0.9),)),))
    with pytest.raises(ValueError, match="got the first"):
        Runner(experiment, tmp_path).run("m", method, [0])


def test_a_projection_goes_through_checkpoints(three_tasks, tmp_path):
    plugins = (GPM(0.6, 0.9, samples=100),)
    phases = (phase("z"), phase("b", plugins=plugins), phase("c", plugins=plugins))
    whole = final_state(Runner(three_tasks, tmp_path / "whole"), phases)
    final_state(Runner(three_tasks, tmp_path / "parts"), phases[:2])
    parts = final_state(Runner(three_tasks, tmp_path / "parts"), phases)
    chex.assert_trees_all_equal(parts.params, whole.params)


def test_one_program_serves_all_settings(experiment):
    """Of both methods: the matrices are the state's."""
    trainers = Trainers(experiment, None)
    plugins = [OWM(0.3, batch=8), OWM(1.0, batch=8), GPM(0.6, 0.9)]
    projected = [trainers.of(phase("b", plugins=(plugin,))) for plugin in plugins]
    assert projected[0] is projected[1] is projected[2]
    assert trainers.of(phase("b")) is not projected[0]
