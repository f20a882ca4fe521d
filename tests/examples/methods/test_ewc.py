"""Elastic weight consolidation at the boundaries."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from classp_jax.baselines import fisher_diagonal, set_penalty
from examples.methods.ewc import EWC, SEPARATE
from examples.runner.plan import Method, make_optimizer
from examples.runner.run import Runner
from examples.runner.trainer import Trainer
from tests.examples.helpers import (
    COLLECT,
    batches_of,
    final_state,
    penalties_of,
    phase,
    preprocess,
    read,
    three_phases,
)
from tests.helpers import Network


def test_fisher_of_examples(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    anchor = final_state(runner, (COLLECT,)).params
    pinned = phase("b", plugins=(EWC(strength=1e30, examples=40),))
    state = final_state(runner, (COLLECT, pinned))
    data = experiment.tasks["z"].train
    trainer = Trainer(Network, optax.sgd(0.1), preprocess)
    squares = jax.tree.map(np.zeros_like, anchor)
    gradient = jax.jit(jax.grad(trainer.example_loss))
    for example, label in zip(data.inputs, data.labels, strict=True):
        grads = jax.device_get(gradient(anchor, example, label))
        squares = jax.tree.map(lambda s, g: s + g**2 / 40, squares, grads)
    fisher = optax.tree.get(state.opt_state, "fisher")
    for s, f in zip(jax.tree.leaves(squares), jax.tree.leaves(fisher), strict=True):
        np.testing.assert_allclose(f, s, rtol=1e-4, atol=1e-9)
    # Weights that the first task depends on are held where it left them.
    for f, w, w_star in zip(
        *map(jax.tree.leaves, (fisher, state.params, anchor)), strict=True
    ):
        np.testing.assert_allclose(w[f > 0], w_star[f > 0], atol=1e-6)


def test_fisher_of_steps_is_the_mean_along_training(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    collect = phase("z", "classp", power=2, apply_decay=False)
    before = final_state(runner, (collect,))
    state = final_state(
        runner, (collect, phase("b", plugins=(EWC(1.0, fisher="steps"),)))
    )
    grad_sum = optax.tree.get(before.opt_state, "grad_sum")
    mean = jax.tree.map(lambda s: s / 10, grad_sum)  # Of 2 epochs of 5 steps.
    for name, expected in (("fisher", mean), ("anchor", before.params)):
        actual = optax.tree.get(state.opt_state, name)
        chex.assert_trees_all_equal(actual, expected)


def test_an_explicit_penalty_counts_for_the_stop_loss(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    collect = phase("z", "classp", power=2, apply_decay=False)
    ewc = EWC(2.0, fisher="steps", implicit=False)
    last = phase("b", plugins=(ewc,), epochs=1)
    runner.run("", Method("", (collect, last)), [0])
    state = final_state(runner, (collect, last))
    fisher, anchor = (optax.tree.get(state.opt_state, k) for k in ("fisher", "anchor"))
    penalty = sum(
        float(np.sum(f * (w - w_star) ** 2))
        for f, w, w_star in zip(
            *map(jax.tree.leaves, (fisher, state.params, anchor)), strict=True
        )
    )
    assert penalty > 0
    # The same steps once more, for the loss before the last of them.
    before = final_state(runner, (collect,))
    zeros = jax.tree.map(jnp.zeros_like, before.params)
    trainer = Trainer(Network, make_optimizer(last, zeros), preprocess)
    fresh = trainer.init(0).opt_state
    opt_state = set_penalty(fresh, fisher, anchor)
    order = batches_of(experiment, last, 1, 0)
    parts = [task.train for task in experiment.tasks.values()]
    data = jax.tree.map(lambda *split: jnp.concatenate(split), *parts)
    _, losses = trainer.train_steps(before._replace(opt_state=opt_state), *data, order)
    actual = read(tmp_path)[-1]["results"][-1]["last_loss"]
    assert actual == pytest.approx(float(losses[-1]) + penalty, rel=1e-4)


def test_fisher_of_batches_is_that_of_a_separate_network(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    ewc = EWC(strength=1.0, fisher="batches", implicit=False)
    state = final_state(runner, (phase("z"), phase("b", plugins=(ewc,))))
    seed = SEPARATE
    trainer = Trainer(Network, optax.sgd(0.1), preprocess)
    separate = trainer.init(seed)
    data = jax.device_put(experiment.tasks["z"].train)
    squares = jax.tree.map(jnp.zeros_like, separate.params)
    for batch in batches_of(experiment, phase("z", epochs=1), 0, seed):
        old = separate.params
        separate, _ = trainer.train_step(separate, *data, batch)
        squares = jax.tree.map(
            lambda s, p, q: s + ((p - q) / 0.1) ** 2, squares, old, separate.params
        )
    fisher, anchor = (optax.tree.get(state.opt_state, k) for k in ("fisher", "anchor"))
    for s, f in zip(jax.tree.leaves(squares), jax.tree.leaves(fisher), strict=True):
        np.testing.assert_allclose(f, s / 40, rtol=1e-3, atol=1e-7)
    for p, q in zip(
        jax.tree.leaves(separate.params), jax.tree.leaves(anchor), strict=True
    ):
        np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-6)


def test_penalties_of_several_tasks_are_one(three_tasks, tmp_path):
    runner = Runner(three_tasks, tmp_path)
    phases = three_phases(plugins=(EWC(3.0, examples=40),))
    second, third = (final_state(runner, phases[:n]) for n in (2, 3))
    fisher_a, anchor_a = penalties_of(second)
    fisher, anchor = penalties_of(third)
    # What the second task alone adds, from its own Fisher at the weights it led to.
    data, anchor_b = three_tasks.tasks["b"].train, second.params
    trainer = Trainer(Network, optax.sgd(0.1), preprocess)
    which = np.random.default_rng([0, SEPARATE]).choice(48, 40, False)
    fisher_b = fisher_diagonal(
        trainer.example_loss, anchor_b, data.inputs[which], data.labels[which]
    )
    of_z = three_tasks.tasks["z"].train
    first = final_state(runner, phases[:1]).params
    chex.assert_trees_all_close(anchor_a, first)
    chex.assert_trees_all_close(
        fisher_a, fisher_diagonal(trainer.example_loss, first, *of_z), rtol=1e-4
    )

    def distance(f, w_star):
        """The penalty at some weights, less that at others."""
        terms = jax.tree.map(
            lambda f, w, v, w_star: jnp.sum(
                f * ((w - w_star) ** 2 - (v - w_star) ** 2)
            ),
            f,
            third.params,
            trainer.init(7).params,
            w_star,
        )
        return float(sum(jax.tree.leaves(terms)))

    expected = distance(fisher_a, anchor_a) + distance(fisher_b, anchor_b)
    assert distance(fisher, anchor) == pytest.approx(expected, rel=1e-3)


def test_online_ewc_decays_its_fisher_and_draws_to_the_last_weights(
    three_tasks, tmp_path
):
    runner = Runner(three_tasks, tmp_path)
    separate, online = (
        three_phases(plugins=(EWC(3.0, examples=40, decay=decay),))
        for decay in (None, 0.5)
    )
    # On the second task they are the same.
    second = [final_state(runner, phases[:2]) for phases in (separate, online)]
    chex.assert_trees_all_equal(second[0].params, second[1].params)
    (so_far, _), (both, _), (fisher, anchor) = map(
        penalties_of,
        (
            second[0],
            *(final_state(runner, phases) for phases in (separate, online)),
        ),
    )
    expected = jax.tree.map(lambda f, g: 0.5 * f + (g - f), so_far, both)
    chex.assert_trees_all_close(fisher, expected, rtol=1e-4, atol=1e-8)
    chex.assert_trees_all_equal(anchor, second[1].params)


def test_by_the_clock_ewc_renews_its_penalty_at_one_boundary_in_so_many(
    three_tasks, tmp_path
):
    runner = Runner(three_tasks, tmp_path)
    phases = three_phases(plugins=(EWC(3.0, examples=60, decay=0.5, every=2),))
    second, third = (final_state(runner, phases[:n]) for n in (2, 3))
    plain = final_state(runner, three_phases()[:2])
    chex.assert_trees_all_close(second.params, plain.params, rtol=1e-6)
    assert not any(map(jnp.any, jax.tree.leaves(penalties_of(second)[0])))
    # At the second boundary, of both tasks: 40 examples and 48.
    fisher, anchor = penalties_of(third)
    chex.assert_trees_all_equal(anchor, second.params)
    parts = [three_tasks.tasks[name].train for name in ("z", "b")]
    both = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    which = np.random.default_rng([0, SEPARATE]).choice(88, 60, False)
    trainer = Trainer(Network, optax.sgd(0.1), preprocess)
    expected = fisher_diagonal(
        trainer.example_loss, anchor, both.inputs[which], both.labels[which]
    )
    chex.assert_trees_all_close(fisher, expected, rtol=1e-4, atol=1e-8)


def test_a_clock_of_no_boundaries_is_refused(experiment, tmp_path):
    last = phase("b", plugins=(EWC(1.0, every=0),))
    with pytest.raises(ValueError, match="ewc's every"):
        Runner(experiment, tmp_path).run("", Method("", (phase("z"), last)), [0])
