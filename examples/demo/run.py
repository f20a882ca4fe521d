"""Trains one method on task A and then on task B."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from examples.models.cnn import CNN
from examples.runner.batches import BLOCK
from examples.runner.carry_over import carry_over
from examples.runner.checkpoints import Trail
from examples.runner.data import Task
from examples.runner.loop import Ended, Loop
from examples.runner.plan import Method, make_optimizer
from examples.runner.side_by_side import stacked, train_steps
from examples.runner.stopping import Sigterm
from examples.runner.trainer import Trainer

_MEASUREMENTS = 5  # A task, whatever its length; and one before the first.


class Run(NamedTuple):
    """What one training run gave.

    Attributes:
      steps: the steps at which accuracy was measured, (points,).
      accuracy: on the held-out images of tasks A and B, (points, 2), 0 to 1.
      task_b_start: the step at which task B began.
      seconds: time spent in training steps, after compilation.
      bytes_per_weight: size of the optimizer's state by the number of weights.
    """

    steps: np.ndarray
    accuracy: np.ndarray
    task_b_start: int
    seconds: float
    bytes_per_weight: float

    @property
    def a_after_a(self) -> float:
        """Accuracy on task A when task B begins."""
        return float(self.accuracy[self.steps == self.task_b_start][0, 0])


def train(
    method: Method,
    tasks: dict[str, Task],
    batch_size: int,
    seed: int,
    sigterm: Sigterm,
) -> Run:
    """Trains the paper's CNN on two tasks, one after the other.

    Args:
      method: a phase a task.
      tasks: tasks A and B, with as many examples each.
      batch_size: images a step.
      seed: of the initial weights, the dropout and the order of the images.
      sigterm: the signal at which to stop.

    Returns:
      Its accuracies along training and what they cost.
    """
    data = jax.tree.map(
        lambda *parts: jnp.concatenate(parts), *(task.train for task in tasks.values())
    )
    curve = {name: jax.device_put(task.test) for name, task in tasks.items()}
    loop = Loop(data, curve, _MEASUREMENTS, sigterm, measure_density=False)
    rng = np.random.default_rng(seed)
    count = len(data.labels) // len(tasks)
    state, ends = None, list[Ended]()
    for number, (name, phase) in enumerate(zip(tasks, method.phases, strict=True)):
        epochs = [
            _blocks(number * count + rng.permutation(count), batch_size)
            for _ in range(phase.epochs[name])
        ]
        trainer = Trainer(CNN, make_optimizer(phase))
        fresh = trainer.init(seed)
        state = fresh if state is None else carry_over(state, fresh)
        # Compiled before the clock starts, by no steps at all.
        no_steps = np.zeros((1, BLOCK, batch_size), np.int32)
        train_steps(trainer, stacked([state]), data, no_steps, 0)
        (end,) = loop.train(
            f"{method.title}, {name}",
            trainer,
            [state],
            functools.partial(list, [state]),
            epochs,
            phase,
            Trail("", {}, None),
        )
        ends.append(end)
        state = end.state
    return _run(ends)


def _run(ends: list[Ended]) -> Run:
    steps, accuracies = [0], []
    for end in ends:
        start = steps[-1]
        points: dict[str, Any] = end.measured["curve"]
        of_tasks = [np.array(pairs)[:, 0] for pairs in points["accuracy"].values()]
        accuracies += np.transpose(of_tasks)[bool(start) :].tolist()
        steps += [start + step for step in points["step"][1:]]
    state = ends[-1].state
    weights = sum(p.size for p in jax.tree.leaves(state.params))
    kept = sum(s.nbytes for s in jax.tree.leaves(state.opt_state))
    return Run(
        np.array(steps),
        # As they were measured, before they were rounded for the rows.
        np.array(accuracies, np.float32).astype(float),
        ends[0].measured["curve"]["step"][-1],
        sum(end.measured["seconds"] for end in ends),
        kept / weights,
    )


def _blocks(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Whole batches alone, in blocks of one length that divides the epoch."""
    steps = len(order) // batch_size
    size = max(n for n in range(1, 26) if steps % n == 0)
    batches = order[: steps * batch_size].astype(np.int32)
    return list(batches.reshape(-1, 1, size, batch_size))
