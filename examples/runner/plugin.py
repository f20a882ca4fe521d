"""What a method adds to training with an optimizer: a penalty, a memory of examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import optax

from examples.runner.data import Split

if TYPE_CHECKING:
    import jax
    from flax import nnx

    from examples.runner.plan import Phase
    from examples.runner.trainer import Trainer, TrainState


MakeModel: TypeAlias = "Callable[[nnx.Rngs], nnx.Module]"


class Boundary(NamedTuple):
    """What a plugin knows where one phase has ended and its own begins.

    Attributes:
      phase: the one that begins.
      earlier: those before it.
      before: the state that the last of them ended with, that of its optimizer in it.
      seed: of the initial weights, the order of the examples and the dropout.
      examples: of each task, which of ``data`` are its own to train on.
      data: all tasks' examples to train on.
      trainer: of the phase that begins.
      train: gives the state that other phases lead to, with some seed.
      compute_once: computes what is the same for all phases that begin here, such as
        those of several strengths of one penalty, at the first of them alone; by a key.
    """

    phase: Phase
    earlier: tuple[Phase, ...]
    before: TrainState
    seed: int
    examples: dict[str, np.ndarray]
    data: Split
    trainer: Trainer
    train: Callable[[tuple[Phase, ...], int], TrainState]
    compute_once: Callable[[Any, Callable[[], Any]], Any]

    def ended(self, phases: int = 1) -> np.ndarray:
        """Which of ``data`` the phase before, or so many of them, were trained on."""
        tasks = [task for phase in self.earlier[-phases:] for task in phase.epochs]
        return np.concatenate([self.examples[task] for task in tasks])


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A part of a method beside its optimizer, as Avalanche calls it.

    This one does nothing; another overrides what it needs. It is a frozen dataclass,
    whose fields are its settings, as the rows have them under its key.

    Attributes:
      key: what the rows call it.
      is_penalty: whether it draws the weights to those of before; a phase has one such
        at most.
    """

    key: ClassVar[str]
    is_penalty: ClassVar[bool] = False

    def check(self, phases_before: int, tasks_before: int, batch_size: int) -> None:
        """Raises a ``ValueError`` if a phase can't be trained with it.

        Args:
          phases_before: how many phases there are before its own.
          tasks_before: how many tasks stand before its own.
          batch_size: examples a step.
        """

    def check_boundary(self, before: Phase, ended_with: TrainState) -> None:
        """Raises a ``ValueError`` if it can't begin behind a phase.

        Args:
          before: the phase.
          ended_with: the shapes of the state that it ends with.
        """

    def model(self, make_model: MakeModel) -> MakeModel:
        """Changes the model of its phase.

        Args:
          make_model: makes the experiment's, as the trainer takes it.

        Returns:
          What makes the phase's: it may have further weights, which begin as new ones.
        """
        return make_model

    def wrap(
        self,
        optimizer: optax.GradientTransformation,
        phase: Phase,
        zeros: optax.Params,
    ) -> optax.GradientTransformation:
        """Puts itself around a phase's optimizer.

        Args:
          optimizer: the optimizer.
          phase: the phase.
          zeros: shaped like the weights.

        Returns:
          What the phase trains with.
        """
        del phase, zeros
        return optimizer

    def wrapping(self) -> Plugin:
        """What of it program and model depend on: phases alike in it share them."""
        return self

    def at_boundary(self, context: Boundary, state: TrainState) -> TrainState:
        """Does what a method does where one phase has ended and its own begins.

        Args:
          context: what it may use.
          state: the state that its own phase would begin with.

        Returns:
          The state that its phase begins with.
        """
        del context
        return state

    def at_end(self, state: TrainState) -> TrainState:
        """Does what a method does where its phase has ended, before it is measured.

        Args:
          state: the state that training ended with.

        Returns:
          The one that is measured, and that the next phase begins behind.
        """
        return state

    def at_measurement(self, state: TrainState) -> TrainState:
        """Makes the state that is measured where training doesn't do it at its weights.

        Training goes on from the state as it was. Inside a compiled program, too.

        Args:
          state: a seed's, along a phase or at its end.

        Returns:
          The one whose accuracy is measured.
        """
        return state

    def penalty(self, states: TrainState) -> jax.Array | float:
        """What it adds to the loss, where that decides when a phase ends.

        Args:
          states: of several seeds, along the first axis.

        Returns:
          A number a seed.
        """
        del states
        return 0.0

    def examples_replayed(self) -> int:
        """How many of a batch's examples are drawn from those it has kept."""
        return 0

    def select_kept(
        self,
        tasks: list[np.ndarray],
        tasks_before: int,
        seed: int,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Which examples it has kept.

        Args:
          tasks: of each task, which examples are its own.
          tasks_before: how many tasks stand before its own phase's.
          seed: of the run.
          rng: that of the phase's batches.

        Returns:
          Some of the tasks' examples.
        """
        del tasks, tasks_before, seed, rng
        return np.zeros(0, int)

    def examples_kept(self, first_task: int) -> int:
        """How many examples it keeps, by how many the first task has."""
        del first_task
        return 0

    def as_json(self) -> dict[str, Any]:
        """Its settings as the rows have them: those that are None aren't there."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


def measured(plugins: tuple[Plugin, ...], state: TrainState) -> TrainState:
    """The state whose accuracy is measured, by a phase's plugins."""
    for plugin in plugins:
        state = plugin.at_measurement(state)
    return state
