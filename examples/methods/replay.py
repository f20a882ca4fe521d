"""Experience replay: examples of earlier tasks in the batches of later ones."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from examples.methods.registry import RATES, Sweep, TaskSequence
from examples.runner.checks import check_positive_int
from examples.runner.plan import Family, Phase
from examples.runner.plugin import Plugin

FAMILY = Family("Replay", "#2f96d6")
_ORDER = 1000  # Beside the seed: of the order in which a task's examples are kept.
_IMAGES = 1000  # Kept of all earlier tasks; of the MLP 2.9 bytes a weight.
_MANY = 5000  # As much as the sums of an additive head over 1,000 features.
_DOZEN = 12  # As much as factored sums: 0.035 bytes.


@dataclasses.dataclass(frozen=True)
class Replay(Plugin):
    """Examples of earlier tasks kept and mixed into the batches of a later one.

    Attributes:
      share: of the first task's examples, how many are kept, 0 to 1; None to keep
        ``memory`` instead.
      in_batch: how many of a batch's examples are drawn from them.
      memory: how many examples are kept, as many of each task that stands before the
        phase's; a task's share shrinks with every further one.
    """

    share: float | None
    in_batch: int
    memory: int | None = None

    key: ClassVar[str] = "replay"

    def check(self, phases_before: int, tasks_before: int, batch_size: int) -> None:
        """Refuses what can't be kept, and batches of nothing else."""
        del phases_before
        check_positive_int("replay's in_batch", self.in_batch)
        if self.in_batch >= batch_size:
            raise ValueError(
                f"replay's in_batch must be below the {batch_size} examples of a batch,"
                f" got {self.in_batch}."
            )
        if self.memory is not None:
            check_positive_int("replay's memory", self.memory)
            if not tasks_before:
                raise ValueError("The first task has none before it to replay.")
        elif self.share is None or not 0 < self.share <= 1:
            raise ValueError(
                "replay's share must be above 0 and at most 1, unless memory is given,"
                f" got {self.share}."
            )

    def examples_replayed(self) -> int:
        """How many of a batch's examples are drawn from those kept."""
        return self.in_batch

    def select_kept(
        self,
        tasks: list[np.ndarray],
        tasks_before: int,
        seed: int,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Which examples are kept: of a memory, none that one before had not."""
        if self.memory is None:
            count = len(tasks[0])
            return rng.choice(count, self.examples_kept(count), replace=False)
        orders = [
            np.random.default_rng([seed, _ORDER, i]).permutation(of_task)
            for i, of_task in enumerate(tasks[:tasks_before])
        ]
        each = max(1, self.memory // tasks_before)
        return np.concatenate([order[:each] for order in orders])

    def examples_kept(self, first_task: int) -> int:
        """How many examples of earlier tasks are kept."""
        if self.memory is not None:
            return self.memory
        assert self.share is not None
        return max(1, round(self.share * first_task))


def _of(memory: int) -> Callable[[TaskSequence, float], tuple[Phase, ...]]:
    def phases(sequence: TaskSequence, rate: float) -> tuple[Phase, ...]:
        kept = Replay(None, max(1, sequence.batch_size // 2), memory)
        return sequence.phases("sgd", rate, then=(kept,))

    return phases


SWEEPS = [
    Sweep("replay", "Replay", "α", RATES, _of(_IMAGES), FAMILY),
    Sweep("replay_5000", f"Replay, {_MANY:,} images", "α", RATES, _of(_MANY), FAMILY),
    Sweep("replay_dozen", f"Replay, {_DOZEN} images", "α", RATES, _of(_DOZEN), FAMILY),
]
