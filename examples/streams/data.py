"""The streams: each a sequence of tasks made of one data set."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from examples.continual import Split, Task
from examples.vision import data

_HELD_OUT = 10  # Of the training set one in so many, to choose settings on.
_CLASSES = 10
_SIDE = 28  # Pixels.
SCENARIOS = ("domain", "class", "task")


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
      source: TFDS's name of the data set.
      tasks: how many there are.
      scenarios: those it has, the default one first.
      published: by https://github.com/ContinualAI/continual-learning-baselines, in its
        README.
    """

    title: str
    source: str
    tasks: int
    scenarios: tuple[str, ...]
    published: tuple[Published, ...] = ()


BENCHMARKS = {
    "permuted_mnist": Benchmark(
        "Permuted MNIST",
        "mnist",
        10,
        ("domain",),
        (
            Published("domain", "LFL", 88, None),
            Published("domain", "EWC", 83, 94),
            Published("domain", "SI", 83, 95),
            Published("domain", "A-GEM", 81, 81, online=True),
            Published("domain", "GEM", 80, 83, online=True),
        ),
    ),
    "rotated_mnist": Benchmark("Rotated MNIST", "mnist", 10, ("domain",)),
    "split_mnist": Benchmark(
        "Split MNIST",
        "mnist",
        5,
        ("class", "domain", "task"),
        (
            Published("task", "RWalk", 99, 99),
            Published("task", "SI", 97, 97),
            Published("class", "GDumb", 97, 97),
            Published("class", "GSS", 82, 78),
            Published("class", "Generative replay", 75, 75),
            Published("class", "LwF", 23, 23),
            Published("class", "CoPE", 93, 93, online=True),
            Published("class", "Replay", 92, None, online=True),
        ),
    ),
    "split_fashion_mnist": Benchmark(
        "Split Fashion-MNIST", "fashion_mnist", 5, ("class", "domain", "task")
    ),
}


class Stream(NamedTuple):
    """One stream, by what its tasks depend on.

    Attributes:
      benchmark: a key of :data:`BENCHMARKS`.
      scenario: of those that it has: domain-, class- or task-incremental.
      tasks: how many, the first ones.
      seed: of the permutations and rotations, as Avalanche draws them; of the split
        streams' order of classes, which is that of the labels for seed 0.
      validation: whether a tenth of the training set is held out and serves as the
        test set, and the test set isn't used.
    """

    benchmark: str
    scenario: str
    tasks: int
    seed: int = 0
    validation: bool = False

    @property
    def outputs(self) -> int:
        """How many outputs a network needs."""
        return 2 if self._splits and self.scenario == "domain" else _CLASSES

    @property
    def heads(self) -> tuple[int, ...] | None:
        """Of each class its task, where the network is told which it is; else None."""
        if self.scenario != "task":
            return None
        return tuple((np.argsort(self._classes) // 2).tolist())

    @property
    def chance(self) -> float:
        """The accuracy of guessing among the outputs that may be right."""
        return 1 / (2 if self.scenario == "task" else self.outputs)

    def load(self, data_dir: pathlib.Path | None = None) -> dict[str, Task]:
        """Reads the data set and makes the tasks, ``task_1`` and so on.

        Args:
          data_dir: as :func:`examples.vision.data.load` takes it.

        Returns:
          The tasks by their names; images (n, 28, 28, 1), uint8.

        Raises:
          DatasetError: the data set is damaged, or missing and can't be downloaded.
        """
        source = BENCHMARKS[self.benchmark].source
        return self.of(data.load(data_dir, [source])[source])

    def of(self, whole: Task) -> dict[str, Task]:
        """Makes the tasks of a whole data set, as :meth:`load` returns them."""
        if self.validation:
            inputs, labels = whole.train
            count = len(labels) - len(labels) // _HELD_OUT
            whole = Task(
                Split(inputs[:count], labels[:count]),
                Split(inputs[count:], labels[count:]),
            )
        make = self._classes_of if self._splits else self._moved
        rng = np.random.RandomState(self.seed)  # Whose draws are Avalanche's.
        parts = [make(i, rng) for i in range(self.tasks)]
        return {
            f"task_{i}": Task(*(part(split) for split in whole))
            for i, part in enumerate(parts, start=1)
        }

    @property
    def _splits(self) -> bool:
        return len(BENCHMARKS[self.benchmark].scenarios) > 1

    @property
    def _classes(self) -> np.ndarray:
        """In their order, two a task."""
        if self.seed == 0:
            return np.arange(_CLASSES)
        return np.random.RandomState(self.seed).permutation(_CLASSES)

    def _classes_of(
        self, task: int, rng: np.random.RandomState
    ) -> Callable[[Split], Split]:
        """Takes the images of a task's classes out of a split."""
        del rng
        pair = self._classes[2 * task : 2 * task + 2]

        def part(split: Split) -> Split:
            members = np.flatnonzero(np.isin(split.labels, pair))
            inputs, labels = split.inputs[members], split.labels[members]
            if self.scenario == "domain":
                labels = (labels == pair[1]).astype(np.int32)
            return Split(inputs, labels)

        return part

    def _moved(self, task: int, rng: np.random.RandomState) -> Callable[[Split], Split]:
        """Permutes the pixels of all images alike, or rotates all alike."""
        del task
        pixels = np.arange(_SIDE * _SIDE, dtype=np.int32)
        if self.benchmark == "permuted_mnist":
            source = pixels[rng.permutation(_SIDE * _SIDE)]
        else:
            angle = int(rng.randint(-180, 181))
            # Where each pixel comes from; what comes from outside is black.
            image = Image.fromarray(pixels.reshape(_SIDE, _SIDE))
            rotated = image.rotate(angle, Image.Resampling.NEAREST, fillcolor=-1)
            source = np.asarray(rotated).ravel()

        def part(split: Split) -> Split:
            flat = split.inputs.reshape(len(split.inputs), -1)
            moved = np.where(source < 0, np.uint8(0), flat[:, source])
            return Split(moved.reshape(split.inputs.shape), split.labels)

        return part
