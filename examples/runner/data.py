"""What is learned: examples, tasks, and an experiment that trains a model on them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from examples.runner.stored import Stored

Array = jax.Array | np.ndarray[Any, Any]


class Split(NamedTuple):
    """Examples and their classes.

    Attributes:
      inputs: (n, ...), as the experiment's ``preprocess`` takes them; or stored ones,
        which are read in training.
      labels: (n,), integer; or (n, positions), where an example has one at each of its
        positions, as a text has a next byte.
    """

    inputs: Array | Stored
    labels: Array


class Task(NamedTuple):
    """A data set.

    Attributes:
      train: the examples to train on.
      test: those held out, if any.
    """

    train: Split
    test: Split | None = None


class Experiment(NamedTuple):
    """A model and the tasks it learns.

    Attributes:
      name: what to call it in the rows; another one whenever the model or the
        preprocessing changes, so that no mean mixes old rows with new.
      make_model: as :class:`examples.runner.trainer.Trainer` takes it.
      preprocess: likewise.
      tasks: the tasks by their names, in their order.
      batch_size: examples a step; an epoch's last step takes those left over.
      curve: the split to measure on along training, and how many of its first
        examples.
      options: what else the model and the tasks depend on, for the rows.
      dtype: of the weights and activations, by name.
      heads: as :class:`examples.runner.trainer.Trainer` takes it; ``options`` tell.
      loss_tasks: likewise.
      measurements: along each phase of a given length.
      splits: to measure on behind phases that others follow.
      measure_unseen: whether tasks that are still to come are measured too, and all
        before the first phase.
      measure: what is measured, of :data:`examples.runner.evaluation.MEASURES`.
        Labels may have positions where it is ``"bits"``.
    """

    name: str
    make_model: Callable[[nnx.Rngs], nnx.Module]
    preprocess: Callable[[jax.Array], jax.Array]
    tasks: dict[str, Task]
    batch_size: int
    curve: tuple[str, int] = ("test", 1000)
    options: dict[str, Any] = {}  # noqa: RUF012
    dtype: str = "float32"
    heads: tuple[int, ...] | None = None
    loss_tasks: tuple[int, ...] | None = None
    measurements: int = 8
    splits: tuple[str, ...] = ("train", "test")
    measure_unseen: bool = False
    measure: str = "accuracy"

    @property
    def settings(self) -> dict[str, Any]:
        """What all methods share; only rows with the same settings are compared."""
        return {
            "experiment": self.name,
            "batch_size": self.batch_size,
            "examples": {
                name: {split: len(x.labels) for split, x in task._asdict().items() if x}
                for name, task in self.tasks.items()
            },
            **self.options,
            # Rows of the default have none.
            **({"dtype": self.dtype} if self.dtype != "float32" else {}),
        }
