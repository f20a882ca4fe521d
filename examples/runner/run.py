"""Trains methods on one task after another and writes a row of results a seed."""

import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from examples.runner import batches, results, rows, sharding, sources
from examples.runner.carry_over import carry_over
from examples.runner.checkpoints import Saving
from examples.runner.checks import check_experiment, check_positive_int, check_seeds
from examples.runner.data import Experiment, Split, Task
from examples.runner.loop import Loop
from examples.runner.method_checks import check_method, check_transitions
from examples.runner.phase_ends import Outcome, PhaseEnds
from examples.runner.plan import Method, Phase, as_json
from examples.runner.plugin import Boundary, measured
from examples.runner.stopping import Sigterm
from examples.runner.stored import Stored
from examples.runner.trainer import TrainState
from examples.runner.trainers import Trainers


class Runner:
    """Runs methods, and what several of them begin with only once.

    Args:
      experiment: the model and the tasks.
      folder: where ``rows.jsonl`` is written.
      vmap_seeds: how many seeds train side by side in one program.
      saving: where checkpoints are written behind every phase but a method's last, and
        how often along each; by default into ``checkpoints/`` of the folder, and none
        along a phase.
      sigterm: the signal at which to save and stop.
      mesh: the devices to train on, as :class:`examples.runner.trainer.Trainer` takes
        it; if of several processes, ``folder`` must be one that they share, and none
        saves along a phase.

    Raises:
      ValueError: a task can't be trained or measured as the experiment says: a split is
        missing or empty, inputs aren't finite or not alike, or labels aren't classes of
        the model, one an example. Nothing has been compiled then.
      TypeError: inputs or labels are no array.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: pathlib.Path,
        vmap_seeds: int = 1,
        saving: Saving | None = None,
        sigterm: Sigterm | None = None,
        mesh: jax.sharding.Mesh | None = None,
    ):
        check_positive_int("vmap_seeds", vmap_seeds)
        check_experiment(experiment)
        # One by one: as a pytree, a dictionary would lose its order.
        tasks = {
            name: Task(
                _placed(task.train, mesh), task.test and _placed(task.test, mesh)
            )
            for name, task in experiment.tasks.items()
        }
        source = sources.make((task.train for task in tasks.values()), mesh)
        split, count = experiment.curve
        curve = {
            name: _placed(Split(*(x[:count] for x in getattr(task, split))), mesh)
            for name, task in tasks.items()
        }
        self._experiment = experiment._replace(tasks=tasks)
        self._examples = batches.of_tasks(
            {name: len(task.train.labels) for name, task in tasks.items()}
        )
        self._loop = Loop(source, curve, experiment.measurements, sigterm or Sigterm())
        self._trainers = Trainers(self._experiment, mesh)
        self._vmap_seeds = vmap_seeds
        self._mesh = mesh
        self.write_to(folder, saving)

    def write_to(self, folder: pathlib.Path, saving: Saving | None = None) -> None:
        """Writes into another folder from now on; what is compiled stays so.

        Args:
          folder: as for the runner.
          saving: likewise.
        """
        self._rows = folder / "rows.jsonl"
        self._ends = PhaseEnds(
            self._experiment.settings,
            saving.folder if saving else folder / "checkpoints",
            saving,
        )
        self._computed: dict[tuple[Any, ...], Any] = {}

    def stop_at(self, sigterm: Sigterm) -> None:
        """Saves and stops at another signal from now on."""
        self._loop = self._loop._replace(sigterm=sigterm)

    def run(self, name: str, method: Method, seeds: Iterable[int]) -> None:
        """Trains a method with each seed that has no row yet.

        Args:
          name: of the method, for the rows.
          method: what to do.
          seeds: of the initial weights, the order of the examples and the dropout.

        Raises:
          ValueError: the seeds, the method's splits or one of its phases can't be used,
            or a sum that one phase collects can't go on in the next; the message says
            which and why. Nothing has been trained then.
          TypeError: a hyperparameter is none of its optimizer's, or of another type.
        """
        settings = self._experiment.settings
        seeds = check_seeds(seeds)
        check_method(method, self._experiment, self._examples)
        found = rows.select(rows.read(self._rows), method, settings)
        done = {row["seed"] for row in found}
        todo = [seed for seed in seeds if seed not in done]
        if todo:
            check_transitions(method, self._trainers.of)

        def write(outcomes: dict[int, Outcome]) -> None:
            of_group = [
                {
                    "method": name,
                    "seed": seed,
                    "settings": settings,
                    "phases": as_json(method.phases),
                    "results": outcome.results,
                }
                for seed, outcome in outcomes.items()
            ]
            if sharding.is_first_process():
                rows.append(self._rows, *of_group)
            sharding.barrier("rows")

        for group in self._groups(todo):
            self.train(method.phases, group, method.title, method.splits, write)
        self._trainers.evict()

    def train(
        self,
        phases: tuple[Phase, ...],
        seeds: list[int],
        title: str = "",
        splits: tuple[str, ...] = (),
        keep: Callable[[dict[int, Outcome]], None] = lambda outcomes: None,
    ) -> list[Outcome]:
        """Trains the last of some phases, behind those before it; writes no row.

        Its checkpoints are deleted once ``keep`` has written what they led to.

        Args:
          phases: the phases; those before the last are trained unless they have been.
          seeds: as for :meth:`run`.
          title: of the progress bar.
          splits: on which accuracy is measured at the end.
          keep: writes what the phases led to, by seed.

        Returns:
          What the phases led to, a seed each.
        """
        *others, phase = phases
        earlier = tuple(others)
        trainer = self._trainers.of(phase)
        states = [trainer.init(seed) for seed in seeds]
        before: list[Outcome] = []
        if earlier:
            before = self._after(title, earlier, seeds)
            states = [
                carry_over(outcome.state, state)
                for outcome, state in zip(before, states, strict=True)
            ]

        def begin() -> list[TrainState]:
            if not earlier:
                return states
            return [
                self._begun(state, self._boundary(title, phases, outcome.state, seed))
                for outcome, state, seed in zip(before, states, seeds, strict=True)
            ]

        of_seeds = [
            batches.of_phase(
                phase, len(earlier), seed, self._examples, self._experiment.batch_size
            )
            for seed in seeds
        ]
        epochs = jax.tree.map(lambda *blocks: np.stack(blocks), *of_seeds)
        bar = f"{title}, {'+'.join(phase.epochs)}, seed {', '.join(map(str, seeds))}"
        with self._ends.trail(phases, seeds) as trail:
            ends = self._loop.train(bar, trainer, states, begin, epochs, phase, trail)
            outcomes = {}
            for i, (seed, trained) in enumerate(zip(seeds, ends, strict=True)):
                state = _ended(phase, trained.state)
                end = trained._replace(state=measured(phase.plugins, state))
                result = results.of_phase(
                    self._experiment, phases, trainer, splits, seed, end, self._mesh
                )
                so_far = before[i].results if before else []
                outcomes[seed] = Outcome(state, [*so_far, result])
            with self._loop.sigterm.deferred():
                keep(outcomes)
        return list(outcomes.values())

    def _groups(self, seeds: list[int]) -> list[list[int]]:
        size = self._vmap_seeds
        return [seeds[i : i + size] for i in range(0, len(seeds), size)]

    def _after(
        self, title: str, phases: tuple[Phase, ...], seeds: list[int]
    ) -> list[Outcome]:
        """Trains phases that others follow, unless there is a checkpoint."""
        todo = [s for s in seeds if not self._ends.file(phases, s).exists()]
        for group in self._groups(todo):
            self.train(
                phases,
                group,
                title,
                self._experiment.splits,
                lambda outcomes: self._ends.save(phases, outcomes),
            )
        trainer = self._trainers.of(phases[-1])
        return [self._ends.load(phases, s, trainer.init(s)) for s in seeds]

    def _begun(self, state: TrainState, context: Boundary) -> TrainState:
        """What a phase's plugins make of the state that it would begin with."""
        for plugin in context.phase.plugins:
            state = plugin.at_boundary(context, state)
        return state

    def _boundary(
        self, title: str, phases: tuple[Phase, ...], before: TrainState, seed: int
    ) -> Boundary:
        *earlier, phase = phases

        def train(phases: tuple[Phase, ...], seed: int) -> TrainState:
            (outcome,) = self._after(f"{title}: apart", phases, [seed])
            return outcome.state

        def compute_once(key: Any, compute: Callable[[], Any]) -> Any:
            place = (self._ends.key(tuple(earlier)), seed, key)
            if place not in self._computed:
                self._computed[place] = compute()
            return self._computed[place]

        return Boundary(
            phase,
            tuple(earlier),
            before,
            seed,
            self._examples,
            self._loop.source.data,
            self._trainers.of(phase),
            train,
            compute_once,
        )


def _placed(split: Split, mesh: jax.sharding.Mesh | None) -> Split:
    """Examples on the devices, unless they're stored."""
    if isinstance(split.inputs, Stored):
        return split
    placed: Split = sharding.place(split, mesh, shard=False)
    return placed


def _ended(phase: Phase, state: TrainState) -> TrainState:
    """What a phase's plugins make of the state that training ended with."""
    for plugin in phase.plugins:
        state = plugin.at_end(state)
    return state
