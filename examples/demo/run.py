"""Trains one method on task A and then on task B."""

import time
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from examples.datasets.digits import Task
from examples.demo.methods import TITLES, make_optimizer
from examples.models.cnn import CNN
from examples.training import Trainer


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
    method: str,
    hyperparameters: dict[str, Any],
    tasks: tuple[Task, Task],
    epochs: tuple[int, int],
    batch_size: int,
    seed: int,
) -> Run:
    """Trains the paper's CNN on two tasks, one after the other.

    Args:
      method: a key of :data:`examples.demo.methods.METHODS`.
      hyperparameters: what to pass to the method's constructor.
      tasks: tasks A and B.
      epochs: how many passes over each.
      batch_size: images a step.
      seed: of the initial weights, the dropout and the order of the images.

    Returns:
      Its accuracies along training and what they cost.
    """
    steps_per_epoch = len(tasks[0].train_labels) // batch_size
    task_b_start = epochs[0] * steps_per_epoch
    total = task_b_start + epochs[1] * steps_per_epoch
    optimizer = make_optimizer(method, hyperparameters, task_b_start)
    trainer = Trainer(CNN, optimizer)
    state = trainer.init(seed)
    weights = sum(p.size for p in jax.tree.leaves(state.params))
    state_bytes = sum(s.nbytes for s in jax.tree.leaves(state.opt_state))
    train_data, test_data = (
        [jax.device_put((task[i], task[i + 1])) for task in tasks] for i in (1, 3)
    )

    def measure() -> list[float]:
        accuracies = [trainer.accuracy(state.params, *data) for data in test_data]
        return [float(accuracy.dropout_off) for accuracy in accuracies]

    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(tasks[0].train_labels)) for _ in range(sum(epochs))]
    size = _loop_size(steps_per_epoch)
    batches = np.stack([order[: steps_per_epoch * batch_size] for order in orders])
    batches = batches.reshape(total // size, size, batch_size)
    # Five measurements a task, whatever its length, its end among them.
    stops = {
        start + (stop - start) * i // 5
        for start, stop in ((0, task_b_start), (task_b_start, total))
        for i in range(1, 6)
    }

    # Compiled before the clock starts; the state is made anew.
    trainer.train_steps(state, *train_data[0], batches[0])
    state = trainer.init(seed)
    steps, accuracy, seconds = [0], [measure()], 0.0
    with tqdm(total=total, desc=TITLES[method], unit="step") as bar:
        for loop, batches_of_loop in enumerate(batches):
            start = time.perf_counter()
            data = train_data[loop * size >= task_b_start]
            state, _ = trainer.train_steps(state, *data, batches_of_loop)
            jax.block_until_ready(state)
            seconds += time.perf_counter() - start
            bar.update(size)
            if stops & set(range(loop * size + 1, (loop + 1) * size + 1)):
                steps.append((loop + 1) * size)
                accuracy.append(measure())
                bar.set_postfix(A=f"{accuracy[-1][0]:.1%}", B=f"{accuracy[-1][1]:.1%}")
    return Run(
        np.array(steps),
        np.array(accuracy),
        task_b_start,
        seconds,
        state_bytes / weights,
    )


def _loop_size(steps_per_epoch: int) -> int:
    # Whole loops an epoch, all of one length: one compilation serves them all.
    return max(n for n in range(1, 26) if steps_per_epoch % n == 0)
