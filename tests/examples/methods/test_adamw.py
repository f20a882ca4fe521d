"""AdamW with a decayed rate, and a new optimizer where a task begins."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from examples.methods.adamw import adamw_cosine
from examples.methods.restart import Restart
from examples.runner.carry_over import states_of
from examples.runner.run import Runner
from tests.examples.helpers import final_state, phase


def test_the_rate_rises_for_a_twentieth_and_falls_to_0():
    optimizer = adamw_cosine(0.5, 100, weight_decay=0.0)
    params = jnp.zeros(1)
    state, steps = optimizer.init(params), []
    for _ in range(110):
        # Adam's step of one gradient again and again is the rate.
        update, state = optimizer.update(jnp.full(1, 1e-3), state, params)
        steps.append(-float(update[0]))
    assert np.argmax(steps) == 5
    assert max(steps) == pytest.approx(0.5, rel=1e-3)
    assert steps[0] == 0 and np.all(np.diff(steps[5:101]) < 0)
    assert steps[52] == pytest.approx(0.25, rel=0.02)
    np.testing.assert_array_equal(steps[100:], 0)


def test_a_schedule_that_has_ended_begins_anew_with_a_restart(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    first = phase("z", "adamw_cosine", 0.01, steps=10)
    before = final_state(runner, (first,))
    for plugins in ((), (Restart(),)):
        then = phase("b", "adamw_cosine", 0.01, steps=10, plugins=plugins)
        after = final_state(runner, (first, then))
        same = jax.tree.map(lambda a, b: jnp.all(a == b), before.params, after.params)
        assert all(jax.tree.leaves(same)) == (not plugins)
        (schedule,) = states_of(after.opt_state, optax.ScaleByScheduleState)
        assert schedule.count == (12 if plugins else 22)
    chex.assert_tree_all_finite(after.params)
