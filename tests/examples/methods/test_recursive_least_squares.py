"""The head by recursive least squares."""

import chex
import numpy as np
import pytest

from examples.methods.recursive_least_squares import (
    HeadOfTask,
    recursive_least_squares,
)
from examples.runner.plan import Method, Phase
from examples.runner.run import Runner
from tests.examples.helpers import batches_of, final_state, phase
from tests.examples.methods.test_projection import OUT, by_hand, seen_by_hand
from tests.helpers import Network


def without_dropout(experiment):
    """Which would hide units from the head; and with short last batches."""

    def make(rngs):
        network = Network(rngs)
        network.dropout.rate = 0.0
        return network

    return experiment._replace(make_model=make, batch_size=7)


@pytest.fixture
def experiment(three_tasks):
    return without_dropout(three_tasks)


def least_squares(task, damping=0.5):
    return Phase({task: 1}, recursive_least_squares, dict(damping=damping))


def recursion(x, labels, damping):
    """Of the inverse, one example after another; float64."""
    p, w = np.eye(x.shape[1]) / damping, np.zeros((x.shape[1], 3))
    for row, label in zip(x, labels, strict=True):
        k = p @ row / (1 + row @ p @ row)
        w = w + np.outer(k, np.eye(3)[label] - row @ w)
        p = p - np.outer(k, row @ p)
    return w


def examples_of(experiment, names):
    tasks = [experiment.tasks[name].train for name in names]
    return tuple(np.concatenate(parts) for parts in zip(*tasks, strict=True))


def test_it_is_the_recursion_over_all_tasks(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    phases = tuple(map(least_squares, "zbc"))
    for count in (1, 3):
        state = final_state(runner, phases[:count])
        inputs, labels = examples_of(experiment, "zbc"[:count])
        x = seen_by_hand(state.params, inputs)[OUT]
        expected = recursion(x, labels, 0.5)
        np.testing.assert_allclose(by_hand(state.params)[OUT], expected, atol=1e-5)


def test_the_trunk_stays(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    states = [final_state(runner, tuple(map(least_squares, t))) for t in ("z", "zbc")]
    chex.assert_trees_all_equal(*(state.params["hidden"] for state in states))


def test_after_a_first_task_by_sgd_it_counts_that_too(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    first, second = phase("z"), least_squares("b")
    second = Phase(second.epochs, second.optimizer, second.hyperparameters)
    counted = Phase(
        second.epochs, second.optimizer, second.hyperparameters, (HeadOfTask(),)
    )
    for then, tasks in ((second, "b"), (counted, "zb")):
        state = final_state(runner, (first, then))
        inputs, labels = examples_of(experiment, tasks)
        x = seen_by_hand(state.params, inputs)[OUT]
        expected = recursion(x, labels, 0.5)
        np.testing.assert_allclose(by_hand(state.params)[OUT], expected, atol=1e-5)
    of_sgd = final_state(runner, (first,))
    chex.assert_trees_all_equal(state.params["hidden"], of_sgd.params["hidden"])
    assert len(batches_of(experiment, counted, 1, 0)[-1]) == 7


def test_refuses_a_damping_of_nothing(experiment, tmp_path):
    method = Method("M", (least_squares("z", damping=0.0),))
    with pytest.raises(ValueError, match="damping must be above 0"):
        Runner(experiment, tmp_path).run("m", method, [0])
