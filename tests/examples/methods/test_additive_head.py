"""The head that is solved for where a task ends."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from examples.methods.additive_head import AdditiveHead, AdditiveHeadState, solved
from examples.methods.recursive_least_squares import LeastSquaresState, with_examples
from examples.methods.registry import TaskSequence, sweeps
from examples.runner.carry_over import states_of
from examples.runner.plan import Method, Phase
from examples.runner.run import Runner
from tests.examples.helpers import final_state, phase
from tests.examples.methods.test_projection import OUT, by_hand, seen_by_hand
from tests.examples.methods.test_recursive_least_squares import (
    examples_of,
    without_dropout,
)

HEAD = (AdditiveHead(0.5),)


@pytest.fixture
def experiment(three_tasks):
    return without_dropout(three_tasks)


def untrained(task):
    return Phase({task: 1}, "set_to_zero", {}, HEAD)


def of_directions(task, plugins=()):
    return phase(task, "classp_gram", epochs=1, plugins=plugins, rank=2)


def ridge(x, labels, damping=0.5):
    """All at once, as least squares of more rows; float64."""
    x = np.concatenate([x, np.sqrt(damping) * np.eye(x.shape[1])])
    y = np.concatenate([np.eye(3)[labels], np.zeros((x.shape[1], 3))])
    return np.linalg.lstsq(x, y, rcond=None)[0]


def test_sums_added_in_parts_are_solved_as_all_examples_at_once():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(60, 5)).astype(np.float32), rng.integers(0, 3, 60)
    labels.sort()  # Classes one after the other, or in any other order.
    for order in (np.arange(60), np.arange(60)[::-1], rng.permutation(60)):
        sums = LeastSquaresState(jnp.zeros((5, 5)), jnp.zeros((5, 3)))
        for part in np.split(order, (7, 8, 30)):
            padded = np.append(part, 0)  # What isn't present doesn't count.
            sums = with_examples(
                sums,
                OUT,
                {OUT: x[padded]},
                labels[padded],
                np.arange(len(padded)) < len(part),
            )
        np.testing.assert_allclose(solved(sums, 0.5), ridge(x, labels), atol=1e-5)


def test_over_a_trunk_that_stays_it_is_that_of_all_tasks(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    phases, trunks = tuple(map(untrained, "zbc")), []
    for count in (1, 3):
        state = final_state(runner, phases[:count])
        inputs, labels = examples_of(experiment, "zbc"[:count])
        expected = ridge(seen_by_hand(state.params, inputs)[OUT], labels)
        np.testing.assert_allclose(by_hand(state.params)[OUT], expected, atol=1e-5)
        trunks.append(state.params["hidden"])
    chex.assert_trees_all_equal(*trunks)


def test_the_trunk_is_trained_as_without_it(experiment, tmp_path):
    """With the head that it has then, not with the one that is measured."""
    runner = Runner(experiment, tmp_path)
    alone = final_state(runner, tuple(map(of_directions, "zb")))
    state = final_state(runner, tuple(of_directions(task, HEAD) for task in "zb"))
    chex.assert_trees_all_close(
        state.params["hidden"], alone.params["hidden"], atol=1e-6
    )
    (of,) = states_of(state.opt_state, AdditiveHeadState)
    np.testing.assert_allclose(of.trained, by_hand(alone.params)[OUT], atol=1e-6)
    head = by_hand(state.params)[OUT]
    np.testing.assert_allclose(head, solved(of.sums, 0.5), atol=1e-6)
    # What it adds is of the trunk before each step: not of the one that it ends with.
    inputs, labels = examples_of(experiment, "zb")
    fresh = ridge(seen_by_hand(state.params, inputs)[OUT], labels)
    assert abs(head - fresh).max() > 1e-3


def test_its_settings_are_a_damping_or_that_of_the_directions():
    of = {sweep.name: sweep for sweep in sweeps()}
    sequence = TaskSequence(("a", "b"), 1, 64)
    for still, moving in zip(
        of["head"].phases(sequence, 3),
        of["head_gram_64"].phases(sequence, 0.2),
        strict=True,
    ):
        assert still.plugins == (AdditiveHead(3),)
        assert (still.optimizer, still.hyperparameters) == ("set_to_zero", {})
        assert moving.plugins == (AdditiveHead(1.0),)
        plain = dict(learning_rate=0.05, damping=0.2, rank=64)
        assert (moving.optimizer, moving.hyperparameters) == ("classp_gram", plain)


def test_refuses_a_damping_of_nothing(experiment, tmp_path):
    method = Method("M", (Phase({"z": 1}, "set_to_zero", {}, (AdditiveHead(0),)),))
    with pytest.raises(ValueError, match="damping must be above 0, got 0"):
        Runner(experiment, tmp_path).run("m", method, [0])
