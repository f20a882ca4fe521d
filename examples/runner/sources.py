"""Where a phase's batches come from: the devices' memory, or a disk."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from examples.runner import batches, sharding, side_by_side
from examples.runner.data import Split
from examples.runner.stored import Batches, Stored, concatenated
from examples.runner.trainer import Trainer, TrainState

STEPS = 5  # Batches a call of the compiled loop, of those that were read.
AHEAD = 10  # Batches read before they're needed.
_THREADS = min(AHEAD, os.cpu_count() or 1)

Train = Callable[[Trainer, TrainState, np.ndarray], tuple[TrainState, np.ndarray]]
"""Trains on a block, (seeds, steps, batch); gives each seed's last loss, too."""


class Source(Protocol):
    """Gives a phase its examples, whose order is known before."""

    @property
    def data(self) -> Split:
        """All tasks' examples to train on."""

    def training(
        self, blocks: list[np.ndarray]
    ) -> contextlib.AbstractContextManager[Train]:
        """What trains on blocks, each once and in their order."""

    def examples(self, batch: np.ndarray) -> tuple[Split, np.ndarray]:
        """Data that has a batch of each seed, (seeds, batch), and where in it."""


def make(
    splits: Iterable[Split], mesh: jax.sharding.Mesh | None
) -> "OnDevices | OnDisk":
    """The source of some tasks' examples: on a disk if those of any task are.

    Args:
      splits: the examples to train on; what isn't stored is on the devices.
      mesh: the devices.

    Returns:
      The source, the tasks one behind the other.
    """
    splits = list(splits)
    if not any(isinstance(of.inputs, Stored) for of in splits):
        # So that a batch may hold several tasks'.
        data: Split = jax.tree.map(lambda *parts: jnp.concatenate(parts), *splits)
        return OnDevices(data)
    labels = np.concatenate([np.asarray(of.labels) for of in splits])
    return OnDisk(concatenated([of.inputs for of in splits]), labels, mesh)


class OnDevices(NamedTuple):
    """All examples on every device, from which a compiled loop takes its batches."""

    data: Split

    @contextlib.contextmanager
    def training(self, blocks: list[np.ndarray]) -> Iterator[Train]:
        """As :class:`Source` says."""
        del blocks
        yield self._train

    def examples(self, batch: np.ndarray) -> tuple[Split, np.ndarray]:
        """As :class:`Source` says."""
        return self.data, batch

    def _train(
        self, trainer: Trainer, states: TrainState, block: np.ndarray
    ) -> tuple[TrainState, np.ndarray]:
        steps = block.shape[1]
        # One shape, and so one program, for all lengths.
        padded = np.pad(block, ((0, 0), (0, batches.BLOCK - steps), (0, 0)))
        states, losses = side_by_side.train_steps(
            trainer, states, self.data, padded, steps
        )
        return states, np.asarray(losses)[:, steps - 1]


class OnDisk(NamedTuple):
    """Examples that Grain's threads read by their indices, a few batches ahead.

    At no time are more than ``AHEAD + 3 * STEPS`` batches in memory: those read ahead,
    those put together, and two calls' of the compiled loop. Of a batch that is cut
    among devices each process reads what its own devices need.

    Attributes:
      inputs: of all tasks' examples to train on.
      labels: theirs, in memory.
      mesh: the devices.
    """

    inputs: Stored
    labels: np.ndarray
    mesh: jax.sharding.Mesh | None

    @property
    def data(self) -> Split:
        """As :class:`Source` says; what is indexed is put on every device."""
        return Split(self.inputs.map(self._everywhere), self._everywhere(self.labels))

    @contextlib.contextmanager
    def training(self, blocks: list[np.ndarray]) -> Iterator[Train]:
        """As :class:`Source` says."""
        import grain  # Here, as it takes a second.

        steps = [block[:, i] for block in blocks for i in range(block.shape[1])]
        reading = iter(
            grain.MapDataset.source(steps)
            .map(self._read)
            .to_iter_dataset(grain.ReadOptions(_THREADS, AHEAD))
        )
        try:
            yield functools.partial(self._train, reading)
        finally:
            reading.close()

    def examples(self, batch: np.ndarray) -> tuple[Split, np.ndarray]:
        """As :class:`Source` says; every process reads all of them."""
        which = np.where(batch < 0, batch[:, :1], batch).ravel()
        places = np.arange(batch.size, dtype=batch.dtype).reshape(batch.shape)
        data = self._everywhere(Split(self.inputs[which], self.labels[which]))
        return data, np.where(batch < 0, batch, places)

    def _train(
        self,
        reading: Iterator[Batches],
        trainer: Trainer,
        states: TrainState,
        block: np.ndarray,
    ) -> tuple[TrainState, np.ndarray]:
        count = block.shape[1]
        before: Any = None
        for start in range(0, count, STEPS):
            steps = min(STEPS, count - start)
            read = self._on_devices([next(reading) for _ in range(steps)])
            states, losses = side_by_side.train_read(trainer, states, read, steps)
            # The call before has to end, so that no more than two wait.
            jax.block_until_ready(before)
            before = losses
        return states, np.asarray(before)[:, steps - 1]

    def _read(self, batch: np.ndarray) -> Batches:
        """A step's batch of each seed, (seeds, batch); of the inputs this process's."""
        which = np.where(batch < 0, batch[:, :1], batch)
        mine = which[:, sharding.columns_here(batch.shape[1], self.mesh)]
        inputs = self.inputs[mine.ravel()]
        return Batches(
            inputs.reshape(*mine.shape, *inputs.shape[1:]),
            self.labels[which],
            batch >= 0,
        )

    def _on_devices(self, read: list[Batches]) -> Batches:
        """Steps put together, and filled up to as many as a program takes."""
        first = read[0]
        together = Batches(
            *(np.zeros((len(x), STEPS, *x.shape[1:]), x.dtype) for x in first)
        )
        for i, of_step in enumerate(read):
            for whole, x in zip(together, of_step, strict=True):
                whole[:, i] = x
        inputs, *others = together
        inputs = sharding.place_columns(inputs, first.labels.shape[1], self.mesh)
        return Batches(inputs, *self._everywhere(others))

    def _everywhere(self, tree: Any) -> Any:
        return sharding.place(tree, self.mesh, shard=False)
