"""SC-AdaGrad on a stream: one sum of squares over all tasks."""

import chex
import jax
import jax.numpy as jnp
import optax

from classp_jax.baselines import sc_adagrad
from examples.methods.registry import TaskSequence, sweeps
from examples.runner.run import Runner
from examples.runner.trainer import Trainer
from tests.examples.helpers import batches_of, final_state, preprocess
from tests.helpers import Network


def test_its_sum_goes_on_across_boundaries(three_tasks, tmp_path):
    (sweep,) = (sweep for sweep in sweeps() if sweep.name == "sc_adagrad")
    phases = sweep.phases(TaskSequence(("z", "b", "c"), 1, 8), 0.05)
    actual = final_state(Runner(three_tasks, tmp_path), phases)
    trainer = Trainer(Network, sc_adagrad(0.05), preprocess)
    parts = [task.train for task in three_tasks.tasks.values()]
    data = jax.tree.map(lambda *split: jnp.concatenate(split), *parts)
    state, step = trainer.init(0), jax.jit(trainer.train_step)
    for number, of_task in enumerate(phases):
        for batch in batches_of(three_tasks, of_task, number, 0):
            state, _ = step(state, *data, batch)
    sums = (optax.tree.get(x.opt_state, "sum_of_squares") for x in (actual, state))
    chex.assert_trees_all_close(*sums, rtol=1e-4, atol=1e-8)
    chex.assert_trees_all_close(actual.params, state.params, rtol=1e-4, atol=1e-6)
