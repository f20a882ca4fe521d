"""Which examples a phase trains on, step by step; NumPy alone.

All tasks' examples stand one behind the other, and an integer names one of them.
"""

import numpy as np

from examples.runner.plan import Phase

BLOCK = 125  # Steps in one call of the compiled loop, at most.
Epochs = list[list[np.ndarray]]
"""Of each epoch its blocks, (steps, batch), int32; -1 where none is left."""


def of_tasks(sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Which examples are each task's own.

    Args:
      sizes: how many examples each task has, in their order.

    Returns:
      The examples by the tasks' names.
    """
    starts = np.cumsum([0, *sizes.values()])
    return {
        name: start + np.arange(size)
        for start, (name, size) in zip(starts[:-1], sizes.items(), strict=True)
    }


def tasks_before(phase: Phase, names: list[str]) -> int:
    """How many tasks stand before the first of a phase's."""
    return min(map(names.index, phase.epochs))


def new_in_batch(phase: Phase, shortest: int, batch_size: int) -> int:
    """How many examples of a batch aren't replayed.

    Args:
      phase: the phase.
      shortest: how many examples the shortest of its epochs has.
      batch_size: examples a step.

    Returns:
      Their number.

    Raises:
      ValueError: an epoch hasn't as many, or there are none.
    """
    replayed = sum(plugin.examples_replayed() for plugin in phase.plugins)
    new = batch_size - replayed
    if not 0 < new <= shortest:
        raise ValueError(
            f"A batch of {batch_size} examples, {replayed} of them replayed, can't be"
            f" drawn from {shortest}."
        )
    return new


def check(phase: Phase, tasks: dict[str, np.ndarray], batch_size: int) -> None:
    """Refuses a phase of which no batch can be drawn, with a ``ValueError``."""
    # As they are mixed: all epochs in one, unless each task has as many.
    in_one = len(set(phase.epochs.values())) > 1
    epoch = sum(
        len(tasks[name]) * (count if in_one else 1)
        for name, count in phase.epochs.items()
    )
    new_in_batch(phase, epoch, batch_size)


def of_phase(
    phase: Phase,
    number: int,
    seed: int,
    tasks: dict[str, np.ndarray],
    batch_size: int,
) -> Epochs:
    """Draws a phase's batches.

    They are the same for all methods, as long as their phases' data are.

    Args:
      phase: the phase.
      number: how many phases there are before it.
      seed: of the order.
      tasks: as :func:`of_tasks` gives them.
      batch_size: examples a step.

    Returns:
      Of each epoch its blocks.
    """
    rng = np.random.default_rng([seed, number])
    epochs = [
        rng.permutation(tasks[name])
        for name, count in phase.epochs.items()
        for _ in range(count)
    ]
    if len(phase.epochs) > 1:
        epochs = _mixed(epochs, set(phase.epochs.values()), rng)
    new = new_in_batch(phase, min(map(len, epochs)), batch_size)
    blocks = [in_blocks(epoch, new) for epoch in epochs]
    before = tasks_before(phase, list(tasks))
    for plugin in phase.plugins:
        if plugin.examples_replayed():
            kept = plugin.select_kept(list(tasks.values()), before, seed, rng)
            blocks = [
                [
                    _with_drawn(block, kept, plugin.examples_replayed(), rng)
                    for block in of_epoch
                ]
                for of_epoch in blocks
            ]
    return blocks


def steps(phase: Phase, tasks: dict[str, np.ndarray], batch_size: int) -> int:
    """How many batches :func:`of_phase` draws."""
    epochs = [
        len(tasks[name]) for name, count in phase.epochs.items() for _ in range(count)
    ]
    if len(phase.epochs) > 1:
        counts = set(phase.epochs.values())
        count = counts.pop() if len(counts) == 1 else 1
        epochs = [sum(epochs[i::count]) for i in range(count)]
    new = new_in_batch(phase, min(epochs), batch_size)
    return sum(-(-length // new) for length in epochs)


def in_blocks(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Cuts an epoch into batches, and these into calls of the compiled loop.

    Args:
      order: of the examples, (n,).
      size: of a batch.

    Returns:
      The blocks; the last batch has -1 where nothing is left.
    """
    steps = -(-len(order) // size)
    rest = steps * size - len(order)
    batches = np.pad(order.astype(np.int32), (0, rest), constant_values=-1)
    batches = batches.reshape(steps, size)
    return [batches[i : i + BLOCK] for i in range(0, steps, BLOCK)]


def _mixed(
    epochs: list[np.ndarray], counts: set[int], rng: np.random.Generator
) -> list[np.ndarray]:
    """Mixes several tasks' epochs: one by one if all have as many, else all in one."""
    count = counts.pop() if len(counts) == 1 else 1
    return [rng.permutation(np.concatenate(epochs[i::count])) for i in range(count)]


def _with_drawn(
    block: np.ndarray, kept: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    drawn = rng.choice(kept, (len(block), count)).astype(np.int32)
    return np.concatenate([block, drawn], axis=1)
