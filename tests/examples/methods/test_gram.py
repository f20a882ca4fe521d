"""Refreshes where tasks begin."""

import chex
import pytest

from examples.methods.gram import Refresh
from examples.runner.plan import Phase
from examples.runner.run import Runner
from tests.examples.helpers import final_state
from tests.examples.runner.small_run import experiment

STEPS = 5  # Of each of its tasks.


def test_where_tasks_are_announced_each_begins_with_a_refresh(tmp_path):
    def params(refresh_every, *plugins):
        settings = dict(learning_rate=0.5, damping=0.1, refresh_every=refresh_every)
        phases = (
            Phase({task: 1}, "classp_gram", settings, plugins if task == "b" else ())
            for task in "ab"
        )
        return final_state(runner, tuple(phases)).params

    runner = Runner(experiment(), tmp_path)
    announced = params(None, Refresh())
    chex.assert_trees_all_equal(announced, params(STEPS))
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(announced, params(None), rtol=1e-2)
