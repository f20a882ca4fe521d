"""Bayesian gradient descent along a run: measured at its means, trained at samples."""

import dataclasses

import chex
import jax
import numpy as np
import optax
import pytest

from classp_jax.baselines import bgd_eval_params
from examples.datasets.stream import Stream
from examples.methods.bgd import AtMeans
from examples.runner.run import Runner
from examples.streams.study import study
from tests.examples.helpers import final_state, three_phases

SETTINGS = dict(learning_rate=0.1, initial_std=0.3, batch_size=8)


AT_MEANS = (AtMeans(),)


def phases(plugins=AT_MEANS):
    return tuple(
        dataclasses.replace(
            phase,
            optimizer="bgd",
            hyperparameters=SETTINGS,
            plugins=plugins,
        )
        for phase in three_phases()
    )


def outcome(runner, of, seed=0):
    (outcome,) = runner.train(of, [seed], splits=("test",))
    return outcome


def test_it_is_measured_at_the_means_and_goes_on_from_the_sample(three_tasks, tmp_path):
    runner = Runner(three_tasks, tmp_path)
    at_means, at_sample = (
        outcome(runner, phases(plugins)[:1]) for plugins in (AT_MEANS, ())
    )
    state = at_means.state
    chex.assert_trees_all_equal(state.params, at_sample.state.params)
    chex.assert_trees_all_equal(state.opt_state, at_sample.state.opt_state)
    means = bgd_eval_params(state.opt_state, state.params)
    trainer = runner._trainers.of(phases()[0])
    for of, params in ((at_means, means), (at_sample, state.params)):
        (result,) = of.results
        for name, task in three_tasks.tasks.items():
            share = trainer.evaluate(params, *task.test).dropout_off
            assert result["accuracy"][name]["test"][0] == pytest.approx(float(share))
            last = result["curve"]["accuracy"][name][-1][0]
            share = trainer.evaluate(params, *task.test).dropout_off
            assert last == pytest.approx(float(share))
    assert at_means.results[0]["accuracy"] != at_sample.results[0]["accuracy"]


def test_the_distribution_goes_on_across_boundaries(three_tasks, tmp_path):
    runner = Runner(three_tasks, tmp_path)
    first, second = (final_state(runner, phases()[:n]) for n in (1, 2))
    counts = [optax.tree.get(s.opt_state, "count") for s in (first, second)]
    assert 0 < counts[0] < counts[1]
    stds = [
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(s.opt_state.std)])
        for s in (first, second)
    ]
    assert np.mean(stds[1]) < np.mean(stds[0]) < 0.3


def test_each_seed_has_samples_of_its_own(three_tasks, tmp_path):
    runner = Runner(three_tasks, tmp_path, vmap_seeds=2)
    phase = phases()[:1]
    one, other = (outcome.state for outcome in runner.train(phase, [0, 1]))
    noise = []
    for state in (one, other):
        means = bgd_eval_params(state.opt_state, state.params)
        noise.append(
            jax.tree.map(
                lambda w, m, s: np.asarray((w - m) / s),
                state.params,
                means,
                state.opt_state.std,
            )
        )
    for a, b in zip(*map(jax.tree.leaves, noise), strict=True):
        assert np.all(np.abs(a - b) > 1e-6)


def test_the_streams_multiply_by_the_batch_size():
    compared = study(Stream("permuted_mnist", "domain", 2), epochs=1, batch_size=32)
    for phase in compared.methods["bgd_0.02"].phases:
        assert phase.arguments["batch_size"] == 32
        assert phase.arguments["initial_std"] == 0.02
        assert phase.plugins == (AtMeans(),)
