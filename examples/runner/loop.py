"""The training loop: seeds side by side through one phase, measured on their way."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from examples.runner import batches, sharding, side_by_side
from examples.runner.checkpoints import Trail
from examples.runner.data import Split
from examples.runner.plan import Phase
from examples.runner.plugin import measured
from examples.runner.sources import Source, Train
from examples.runner.stopping import Sigterm
from examples.runner.trainer import Trainer, TrainState

# Steps between two measurements along a phase of unknown length, rounded up to epochs:
# at least so many, and later on such a share of all so far.
_MEASURE_EVERY, _MEASURE_SHARE = 30, 0.1


class Ended(NamedTuple):
    """Where a seed ended a phase.

    Attributes:
      state: the state there.
      measured: on the way, as the rows have it.
    """

    state: TrainState
    measured: dict[str, Any]


class Loop(NamedTuple):
    """What the phases of an experiment have in common.

    Attributes:
      source: of all tasks' examples to train on.
      curve: of each task, the examples to measure on along training.
      measurements: along each phase of a given length.
      sigterm: the signal at which to save and stop.
      measure_density: whether it is measured, too, how many weights a step moves.
    """

    source: Source
    curve: dict[str, Split]
    measurements: int
    sigterm: Sigterm
    measure_density: bool = True

    def train(
        self,
        title: str,
        trainer: Trainer,
        like: list[TrainState],
        begin: Callable[[], list[TrainState]],
        epochs: batches.Epochs,
        phase: Phase,
        trail: Trail,
    ) -> list[Ended]:
        """Trains seeds side by side.

        It begins where the trail ends, and lengthens it.

        Args:
          title: of the progress bar.
          trainer: of the phase.
          like: states shaped like those of the seeds.
          begin: makes the states to begin with where there is no trail, which may take
            long.
          epochs: of each epoch its blocks, (seeds, steps, batch).
          phase: when to end, and what its plugins add to the loss.
          trail: the checkpoints.

        Returns:
          Where each seed ended. Those that end before others train on with them,
          unseen.
        """
        blocks = [(e, block) for e, of_epoch in enumerate(epochs) for block in of_epoch]
        total = sum(block.shape[1] for _, block in blocks)
        run = _Run(self, trainer, phase, epochs, total, len(like))
        if saved := trail.restore(lambda at: run.saved_structure(at, like)):
            run.go_on(*saved)
        else:
            run.states = side_by_side.stacked(begin())
        blocks = blocks[run.at.block :]
        with (
            self.sigterm.deferred(),
            self.source.training([block for _, block in blocks]) as run.train_on,
            _progress_bar(title, total, run.at.step) as run.bar,
        ):
            for epoch, block in blocks:
                if run.all_ended or self.sigterm.received:
                    break
                if run.measurement_is_due(epoch, block):
                    run.measure(following=block[:, 0])
                losses = run.train(block)
                if block is epochs[epoch][-1]:
                    run.end_finished_seeds(epoch, losses)
                if trail.is_due(run.at.step):
                    trail.save(run.at.step, *run.to_save())
            trail.save(run.at.step, *run.to_save())
            if self.sigterm.received:
                trail.wait()
        return [Ended(run.ends[s], run.at.ends[s]) for s in map(str, range(len(like)))]


@dataclasses.dataclass
class _Progress:
    """How far a phase has come, as its checkpoints have it."""

    block: int = 0
    step: int = 0
    seconds: float = 0.0
    points: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    ends: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


class _Run:
    """Seeds on their way through a phase; ``ends`` are the states of those there."""

    states: TrainState
    train_on: Train
    bar: "tqdm[Any]"

    def __init__(
        self,
        loop: Loop,
        trainer: Trainer,
        phase: Phase,
        epochs: batches.Epochs,
        total: int,
        count: int,
    ):
        self.at = _Progress()
        self.ends: dict[str, TrainState] = {}
        self._loop, self._trainer, self._phase = loop, trainer, phase
        self._epochs, self._count = epochs, count
        self._every = total / loop.measurements
        self._measure = trainer.classifier.measure

    @property
    def all_ended(self) -> bool:
        return len(self.ends) == self._count

    def to_save(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The progress, and the arrays beside it."""
        arrays: dict[str, Any] = {"ends": self.ends}
        # Where all have ended, nobody needs what they trained on to.
        if not self.all_ended:
            arrays["states"] = self.states
        return dataclasses.asdict(self.at), arrays

    def saved_structure(
        self, progress: dict[str, Any], like: list[TrainState]
    ) -> dict[str, Any]:
        arrays: dict[str, Any] = {"ends": dict.fromkeys(progress["ends"], like[0])}
        if len(progress["ends"]) < self._count:
            arrays["states"] = side_by_side.stacked(like)
        return arrays

    def go_on(self, progress: dict[str, Any], arrays: dict[str, Any]) -> None:
        self.at, self.ends = _Progress(**progress), arrays["ends"]
        if "states" in arrays:
            self.states = arrays["states"]

    def measurement_is_due(self, epoch: int, block: np.ndarray) -> bool:
        points = self.at.points
        if self._phase.stop_loss is None or not points:
            return self.at.step >= self._every * len(points)
        before = points[-1]["step"]
        gap = max(_MEASURE_EVERY, _MEASURE_SHARE * before)
        return block is self._epochs[epoch][0] and self.at.step >= before + gap

    def measure(self, following: np.ndarray | None = None) -> None:
        """Measures here, and how many weights the batch that follows moves."""
        points = self.at.points
        if not points or points[-1]["step"] < self.at.step:
            evaluated = self._evaluated()
            points.append({"step": self.at.step, self._measure: evaluated})
            self.bar.set_postfix(_in_words(self._measure, evaluated))
        if following is not None and self._loop.measure_density:
            data, following = self._loop.source.examples(following)
            density = side_by_side.each_seed(
                lambda x: self._trainer.update_density(x[0], *data, x[1]),
                (self.states, following),
            )
            points[-1]["density"] = np.asarray(density).tolist()

    def train(self, block: np.ndarray) -> np.ndarray:
        """Trains on a block; gives each seed's loss before its last step."""
        start, steps = time.perf_counter(), block.shape[1]
        self.states, last = self.train_on(self._trainer, self.states, block)
        self.at.seconds += time.perf_counter() - start
        self.at.block += 1
        self.at.step += steps
        self.bar.update(steps)
        return last.astype(float)

    def end_finished_seeds(self, epoch: int, losses: np.ndarray) -> None:
        for plugin in self._phase.plugins:
            losses = losses + np.asarray(plugin.penalty(self.states))
        stop_loss = self._phase.stop_loss
        for number, loss in enumerate(losses):
            ended = epoch + 1 == len(self._epochs)
            if stop_loss is not None:
                # Not finite: it never will be again.
                ended |= bool(loss <= stop_loss) or not np.isfinite(loss)
            if ended and str(number) not in self.ends:
                self._end(number, epoch + 1, float(loss))

    def _end(self, number: int, epochs: int, loss: float) -> None:
        self.measure()
        points = self.at.points
        self.at.ends[str(number)] = {
            "curve": {
                "step": [point["step"] for point in points],
                self._measure: {
                    task: [point[self._measure][task][number] for point in points]
                    for task in self._loop.curve
                },
            },
            "epochs": epochs,
            "last_loss": loss if np.isfinite(loss) else None,
            "update_density": self._density(number)
            if self._loop.measure_density
            else None,
            "seconds": self.at.seconds / self._count,
        }
        self.ends[str(number)] = jax.tree.map(lambda x: x[number], self.states)

    def _density(self, number: int) -> float:
        """The mean over the steps, as if each were like the one measured before it."""
        measured = [point for point in self.at.points if "density" in point]
        densities = [point["density"][number] for point in measured]
        steps = np.diff([*(point["step"] for point in measured), self.at.step])
        return float(np.average(densities, weights=steps))

    def _evaluated(self) -> dict[str, list[list[float]]]:
        """A pair a seed of each task: with dropout off, and on."""
        evaluations = side_by_side.each_seed(
            lambda state: {
                name: self._trainer.evaluate(
                    measured(self._phase.plugins, state).params,
                    *data,
                    state.dropout_key,
                )
                for name, data in self._loop.curve.items()
            },
            self.states,
        )
        return {
            name: np.transpose(pair).astype(float).round(6).tolist()
            for name, pair in evaluations.items()
        }


def _progress_bar(title: str, total: int, done: int) -> "tqdm[Any]":
    return tqdm(
        total=total,
        desc=title,
        unit="step",
        dynamic_ncols=True,
        initial=done,
        leave=None,  # Unless it is below another bar.
        disable=not sharding.is_first_process(),
    )


def _in_words(measure: str, of: dict[str, list[list[float]]]) -> dict[str, str]:
    """What was measured, dropout off, for a progress bar."""
    form = ".1%" if measure == "accuracy" else ".3f"
    return {task: f"{np.mean(pairs, 0)[0]:{form}}" for task, pairs in of.items()}
