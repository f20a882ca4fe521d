"""Streams: each a sequence of tasks made of one data set."""

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from examples.runner.data import Split, Task
from examples.runner.discovery import values
from examples.runner.stored import take

_HELD_OUT = 10  # Of the training set one in so many, to choose settings on.
SCENARIOS = ("domain", "class", "task")
Part = Callable[[Split], Split]
"""Takes a task's examples out of a whole data set's, of either split."""


class Published(NamedTuple):
    """An average accuracy that Avalanche's baselines publish.

    Attributes:
      scenario: domain-, class- or task-incremental.
      method: by its usual name.
      measured: what they measure, in %.
      reference: what the paper that they refer to reports, in %; None if there is none.
      online: whether each example is seen once.
    """

    scenario: str
    method: str
    measured: int
    reference: int | None
    online: bool = False


class Benchmark(NamedTuple):
    """A stream of tasks, as Avalanche has it by this name.

    Attributes:
      title: what to call it.
      load: reads the whole data set, from a folder of data sets or, for None, from the
        default one.
      preprocess: what happens to a batch's inputs first.
      tasks: how many there are.
      scenarios: those it has, the default one first.
      parts: what each task has of the data set, by the stream's seed, scenario and
        number of tasks.
      order: the classes in the order in which they are learned, by the stream's seed;
        None where each task has all of them.
      classes: of the data set.
      classes_a_task: of each task.
      published: by https://github.com/ContinualAI/continual-learning-baselines, in its
        README.
      shape: of an image: height, width, channels.
      load_stored: as ``load``, but with images that are read in training; None if they
        are always in memory.
    """

    title: str
    load: Callable[[pathlib.Path | None], Task]
    preprocess: Callable[[jax.Array], jax.Array]
    tasks: int
    scenarios: tuple[str, ...]
    parts: Callable[[int, str, int], list[Part]]
    order: Callable[[int], np.ndarray] | None = None
    classes: int = 10
    classes_a_task: int = 10
    published: tuple[Published, ...] = ()
    shape: tuple[int, ...] = (28, 28, 1)
    load_stored: Callable[[pathlib.Path | None], Task] | None = None


@functools.cache
def benchmarks() -> dict[str, Benchmark]:
    """All of them by their names: the ``BENCHMARKS`` of every file of ``streams/``."""
    found: dict[str, Benchmark] = {}
    for of_file in values("examples.datasets.streams", "BENCHMARKS").values():
        found |= of_file
    return found


class Stream(NamedTuple):
    """One stream, by what its tasks depend on.

    Attributes:
      benchmark: a key of :func:`benchmarks`.
      scenario: of those that it has: domain-, class- or task-incremental.
      tasks: how many, the first ones.
      seed: of the permutations and rotations, as Avalanche draws them; of the split
        streams' order of classes, which is that of the labels for seed 0; of the order
        of the vendors of emoji, which is that of their names for seed 0.
      validation: whether a tenth of the training set is held out and serves as the
        test set, and the test set isn't used.
    """

    benchmark: str
    scenario: str
    tasks: int
    seed: int = 0
    validation: bool = False

    @property
    def definition(self) -> Benchmark:
        """The benchmark."""
        return benchmarks()[self.benchmark]

    @property
    def outputs(self) -> int:
        """How many outputs a network needs."""
        of = self.definition
        return of.classes_a_task if self.scenario == "domain" else of.classes

    @property
    def heads(self) -> tuple[int, ...] | None:
        """Of each class its task, where the network is told which it is; else None."""
        return self.tasks_of_classes if self.scenario == "task" else None

    @property
    def tasks_of_classes(self) -> tuple[int, ...] | None:
        """Of each class its task, in their order; None where each task has all."""
        of = self.definition
        if of.order is None:
            return None
        place = np.argsort(of.order(self.seed))
        return tuple((place // of.classes_a_task).tolist())

    @property
    def chance(self) -> float:
        """The accuracy of guessing among the outputs that may be right."""
        of = self.definition
        return 1 / (of.classes_a_task if self.scenario == "task" else self.outputs)

    def load(
        self, data_dir: pathlib.Path | None = None, *, stored: bool = False
    ) -> dict[str, Task]:
        """Reads the data set and makes the tasks, ``task_1`` and so on.

        Args:
          data_dir: the folder of data sets; None for the default one.
          stored: whether the images stay on the disk until they're needed.

        Returns:
          The tasks by their names.

        Raises:
          DatasetError: the data set is damaged, or missing and can't be downloaded.
          ValueError: its images are always in memory.
        """
        load = self.definition.load_stored if stored else self.definition.load
        if load is None:
            able = ", ".join(n for n, of in benchmarks().items() if of.load_stored)
            raise ValueError(
                f"{self.benchmark} is always in memory; from the disk are {able}"
            )
        return self.of(load(data_dir))

    def of(self, whole: Task) -> dict[str, Task]:
        """Makes the tasks of a whole data set, as :meth:`load` returns them."""
        if self.validation:
            inputs, labels = whole.train
            count = len(labels) - len(labels) // _HELD_OUT
            whole = Task(
                Split(take(inputs, slice(count)), labels[:count]),
                Split(take(inputs, slice(count, None)), labels[count:]),
            )
        assert whole.test is not None
        parts = self.definition.parts(self.seed, self.scenario, self.tasks)
        return {
            f"task_{i}": Task(part(whole.train), part(whole.test))
            for i, part in enumerate(parts, start=1)
        }
