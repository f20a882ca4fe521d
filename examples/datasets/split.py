"""Split streams: each task has some of a data set's classes, and no other has them."""

import functools
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from examples.datasets.stream import Benchmark, Part, Published
from examples.runner.data import Split, Task
from examples.runner.stored import take


def split_benchmark(
    title: str,
    load: Callable[[pathlib.Path | None], Task],
    preprocess: Callable[[jax.Array], jax.Array],
    tasks: int,
    *,
    classes: int = 10,
    shape: tuple[int, ...] = (28, 28, 1),
    published: tuple[Published, ...] = (),
    load_stored: Callable[[pathlib.Path | None], Task] | None = None,
) -> Benchmark:
    """A stream that cuts a data set into tasks with as many classes each.

    It is class-, domain- and task-incremental. The classes come in the order of their
    labels for seed 0, and in a random one for another seed.

    Args:
      title: as :class:`examples.datasets.stream.Benchmark` has it.
      load: likewise.
      preprocess: likewise.
      tasks: into how many.
      classes: of the data set, a multiple of the tasks.
      shape: of an image.
      published: likewise.
      load_stored: likewise.

    Returns:
      The stream.
    """
    order = functools.partial(_order, classes)
    of_task = classes // tasks

    def parts(seed: int, scenario: str, count: int) -> list[Part]:
        chosen = order(seed).reshape(tasks, of_task)[:count]
        return [_of(group, scenario) for group in chosen]

    return Benchmark(
        title,
        load,
        preprocess,
        tasks,
        ("class", "domain", "task"),
        parts,
        order,
        classes,
        of_task,
        published,
        shape,
        load_stored,
    )


def _order(classes: int, seed: int) -> np.ndarray:
    if seed == 0:
        return np.arange(classes)
    return np.random.RandomState(seed).permutation(classes)


def _of(group: np.ndarray, scenario: str) -> Part:
    """The images of a task's classes, numbered from 0 on if domain-incremental."""

    def part(split: Split) -> Split:
        labels = np.asarray(split.labels)
        members = np.flatnonzero(np.isin(labels, group))
        inputs, labels = take(split.inputs, members), labels[members]
        if scenario == "domain":
            labels = (labels[:, None] == group).argmax(1).astype(np.int32)
        return Split(inputs, labels)

    return part
