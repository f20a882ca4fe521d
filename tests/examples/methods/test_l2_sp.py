"""L2-SP at the boundaries."""

import chex
import jax
import jax.numpy as jnp
import optax

from examples.methods.l2_sp import L2SP
from examples.runner.run import Runner
from examples.runner.trainer import Trainer
from tests.examples.helpers import (
    batches_of,
    final_state,
    penalties_of,
    preprocess,
    three_phases,
)
from tests.helpers import Network


def test_its_starting_point_is_renewed_at_each_boundary(three_tasks, tmp_path):
    runner = Runner(three_tasks, tmp_path)
    phases = three_phases(plugins=(L2SP(0.5),))
    first, second, third = (final_state(runner, phases[:n]) for n in (1, 2, 3))
    for before, after in ((first, second), (second, third)):
        ones, anchor = penalties_of(after)
        chex.assert_trees_all_equal(ones, jax.tree.map(jnp.ones_like, anchor))
        chex.assert_trees_all_equal(anchor, before.params)


def test_its_steps_are_those_of_the_penalty_in_the_loss(three_tasks, tmp_path):
    """Implicit: the penalty's gradient is that at the weights after the step."""
    runner = Runner(three_tasks, tmp_path)
    phases = three_phases(plugins=(L2SP(0.5),))
    start, end = (final_state(runner, phases[:n]) for n in (1, 2))
    trainer = Trainer(Network, optax.sgd(0.1), preprocess)
    parts = [task.train for task in three_tasks.tasks.values()]
    data = jax.tree.map(lambda *split: jnp.concatenate(split), *parts)
    state = start._replace(opt_state=trainer.init(0).opt_state)
    step = jax.jit(trainer.train_step)
    for batch in batches_of(three_tasks, phases[1], 1, 0):
        plain, _ = step(state, *data, batch)
        params = jax.tree.map(
            lambda w, w_0: (w + 0.1 * 0.5 * w_0) / (1 + 0.1 * 0.5),
            plain.params,
            start.params,
        )
        state = plain._replace(params=params)
    chex.assert_trees_all_close(end.params, state.params, rtol=1e-4, atol=1e-6)


def test_a_strong_pull_holds_the_first_tasks_weights(three_tasks, tmp_path):
    runner = Runner(three_tasks, tmp_path)
    phases = three_phases(plugins=(L2SP(1e6),))
    first, third = (final_state(runner, phases[:n]) for n in (1, 3))
    chex.assert_trees_all_close(third.params, first.params, atol=1e-5)
