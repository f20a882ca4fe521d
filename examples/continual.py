"""Trains methods on one task after another and writes a row of results a seed."""

import contextlib
import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from classp_jax import (
    EwcPenaltyState,
    ScaleByAccumulatedPowerNormState,
    consolidate,
    fisher_diagonal,
    set_penalty,
    unassigned_share,
)
from examples import checkpoints, checks, rows, sharding
from examples.boundaries import carry_over as _carry_over
from examples.boundaries import check_collects_squares, states_of, sums
from examples.checkpoints import Saving, Sigterm, Trail
from examples.methods import (
    Method,
    Phase,
    arguments,
    as_json,
    kind_of_sum,
    make_optimizer,
    name_of,
)
from examples.runner.data import Experiment, Split
from examples.training import Accuracy, Trainer, TrainState

_LOOP = 125  # Steps in one call of the compiled loop, at most.
# Steps between two measurements along a phase of unknown length, rounded up to epochs:
# at least so many, and later on such a share of all so far.
_MEASURE_EVERY, _MEASURE_SHARE = 30, 0.1
_FISHER_WEIGHTS = 2**27  # Of gradients held at once, 4 bytes each.
_SEPARATE = 1000  # Added to the seed for a separately initialised network.
# Trainers whose compiled programs are kept: on a CPU each program takes hundreds of the
# 65,530 pieces of memory that Linux lets a process map.
_MOST_TRAINERS = 12


class Outcome(NamedTuple):
    """What the phases of one seed led to.

    Attributes:
      state: the state behind the last of them.
      results: what was measured, a dictionary a phase.
    """

    state: TrainState
    results: list[dict[str, Any]]


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
      mesh: the devices to train on, as :class:`examples.training.Trainer` takes it; if
        of several processes, ``folder`` must be one that they share, and none saves
        along a phase.

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
        checks.check_from_1_on("vmap_seeds", vmap_seeds)
        _check(experiment)
        # One by one: as a pytree, a dictionary would lose its order.
        tasks = {
            name: sharding.place(task, mesh, cut=False)
            for name, task in experiment.tasks.items()
        }
        self._experiment = experiment._replace(tasks=tasks)
        self._rows = folder / "rows.jsonl"
        self._saving = saving
        self._checkpoints = saving.folder if saving else folder / "checkpoints"
        self._sigterm = sigterm or Sigterm()
        self._vmap_seeds = vmap_seeds
        self._mesh = mesh
        self._trainers: dict[str, Trainer] = {}
        self._fishers: dict[tuple[str, int, int], optax.Params] = {}
        # All tasks behind one another, so that a batch may hold several.
        self._data = jax.tree.map(
            lambda *parts: jnp.concatenate(parts), *(t.train for t in tasks.values())
        )

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
        seeds = checks.check_seeds(seeds)
        self._check_method(method)
        found = rows.select(rows.read(self._rows), method, settings)
        done = {row["seed"] for row in found}
        todo = [seed for seed in seeds if seed not in done]
        if todo:
            _check_each_phase(method, self._check_goes_on)
        for group in self._groups(todo):

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
                sharding.wait("rows")

            self._train(method.title, method.phases, group, method.splits, write)
        if len(self._trainers) > _MOST_TRAINERS:
            self._trainers.clear()
            jax.clear_caches()

    def _check_method(self, method: Method) -> None:
        """Refuses what can't be trained."""
        if not method.phases:
            raise ValueError(f"{method.title!r} must have a phase at least, got none.")
        _check_each_phase(method, self._check_phase)
        names = self._names_measured(method.phases)
        tasks = [self._experiment.tasks[name] for name in names]
        checks.check_splits(method.splits, tasks)

    def _check_phase(self, earlier: tuple[Phase, ...], phase: Phase) -> None:
        tasks, size = list(self._experiment.tasks), self._experiment.batch_size
        checks.check_phase(phase, len(earlier), tasks, size)
        # As they are mixed: all epochs in one, unless each task has as many.
        in_one = len(set(phase.epochs.values())) > 1
        epoch = sum(
            len(self._range(name)) * (count if in_one else 1)
            for name, count in phase.epochs.items()
        )
        self._new_in_batch(phase, [epoch])
        if phase.replay and phase.replay.memory is not None:
            self._earlier_tasks(phase)
        as_json((phase,))

    def _check_goes_on(self, earlier: tuple[Phase, ...], phase: Phase) -> None:
        """Makes the optimizers, and refuses a sum that is lost or of another form."""
        states = [self._trainer(p).shapes for p in (*earlier, phase)]
        collecting = [bool(sums(state.opt_state)) for state in states]
        if phase.ewc and phase.ewc.fisher == "steps":
            check_collects_squares(earlier[-1], states[-2])
        if not earlier:
            return
        before = earlier[-1]
        if phase.ewc and before.si:
            raise ValueError(
                "ewc can't go on from si, whose importances are no Fisher information."
            )
        if collecting[-1] and any(collecting[:-1]) and not collecting[-2]:
            raise ValueError(
                f"the sum that an earlier phase collected is lost, as"
                f" {name_of(before.optimizer)} keeps none; classp with"
                " apply_decay=False, in its place, is SGD that goes on collecting."
            )
        if collecting[-1] and collecting[-2]:
            kinds = kind_of_sum(before), kind_of_sum(phase)
            if kinds[0] != kinds[1]:
                raise ValueError(
                    f"the phase before collects a sum of {kinds[0]}, which can't go on"
                    f" as one of {kinds[1]}; give both the same."
                )
        jax.eval_shape(_carry_over, states[-2], states[-1])

    @property
    def _first_task(self) -> Split:
        return next(iter(self._experiment.tasks.values())).train

    def _groups(self, seeds: list[int]) -> list[list[int]]:
        size = self._vmap_seeds
        return [seeds[i : i + size] for i in range(0, len(seeds), size)]

    def _after(
        self, title: str, phases: tuple[Phase, ...], seeds: list[int]
    ) -> list[Outcome]:
        """Trains phases that others follow, unless there is a checkpoint."""
        trainer = self._trainer(phases[-1])
        files = {seed: self._file(phases, seed) for seed in seeds}
        todo = [seed for seed, file in files.items() if not file.exists()]

        def write(outcomes: dict[int, Outcome]) -> None:
            for seed, outcome in outcomes.items():
                _save(files[seed], outcome)
            sharding.wait("checkpoints")

        for group in self._groups(todo):
            self._train(title, phases, group, self._experiment.splits, write)
        return [_load(file, trainer.init(seed)) for seed, file in files.items()]

    def _train(
        self,
        title: str,
        phases: tuple[Phase, ...],
        seeds: list[int],
        splits: tuple[str, ...],
        keep: Callable[[dict[int, Outcome]], None] = lambda outcomes: None,
    ) -> list[Outcome]:
        """Trains the last of the phases, behind those before it.

        Its checkpoints are deleted once ``keep`` has written what they led to.
        """
        *earlier, phase = phases
        trainer = self._trainer(phase)
        states = [trainer.init(seed) for seed in seeds]
        results: list[list[dict[str, Any]]] = [[] for _ in seeds]
        if earlier:
            before = self._after(title, tuple(earlier), seeds)
            results = [outcome.results for outcome in before]
            states = [
                _carry_over(outcome.state, state)
                for outcome, state in zip(before, states, strict=True)
            ]

        def begin() -> list[TrainState]:
            if phase.ewc:
                return [
                    self._with_penalty(
                        title, tuple(earlier), phase, outcome, state, seed
                    )
                    for outcome, state, seed in zip(before, states, seeds, strict=True)
                ]
            if phase.si and earlier:
                return [_consolidated(phase, state) for state in states]
            return states

        batches = [self._batches(phase, len(earlier), seed) for seed in seeds]
        with self._trail(phases, seeds) as trail:
            ends = self._loop(
                f"{title}, {'+'.join(phase.epochs)}, seed {', '.join(map(str, seeds))}",
                trainer,
                states,
                begin,
                jax.tree.map(lambda *blocks: np.stack(blocks), *batches),
                phase,
                trail,
            )
            outcomes = {
                seed: Outcome(
                    state,
                    [*so_far, self._result(phases, splits, seed, state, measured)],
                )
                for so_far, seed, (state, measured) in zip(
                    results, seeds, ends, strict=True
                )
            }
            with self._sigterm.held():
                keep(outcomes)
        return list(outcomes.values())

    def _result(
        self,
        phases: tuple[Phase, ...],
        splits: tuple[str, ...],
        seed: int,
        state: TrainState,
        measured: dict[str, Any],
    ) -> dict[str, Any]:
        """What the rows say of a phase."""
        trainer = self._trainer(phases[-1])
        names = self._names_measured(phases)
        result = {
            "accuracy": self._accuracies(trainer, state, names, splits, seed),
            **measured,
            **rows.provenance(self._mesh),
            "bytes_per_weight": self._bytes_per_weight(phases[-1], state),
            "finite": all(
                bool(jnp.isfinite(p).all()) for p in jax.tree.leaves(state.params)
            ),
        }
        if states_of(state.opt_state, ScaleByAccumulatedPowerNormState):
            result["unassigned_share"] = float(unassigned_share(state.opt_state))
        if (is_open := optax.tree.get(state.opt_state, "is_open")) is not None:
            result["is_open"] = bool(is_open)
        if self._experiment.unseen and len(phases) == 1:
            untrained = trainer.init(seed)
            result["untrained"] = self._accuracies(
                trainer, untrained, names, splits, seed
            )
        return result

    def _names_measured(self, phases: tuple[Phase, ...]) -> list[str]:
        """The tasks that accuracy is measured on behind the last of the phases."""
        return [
            name
            for name in self._experiment.tasks
            if self._experiment.unseen or any(name in p.epochs for p in phases)
        ]

    def _accuracies(
        self,
        trainer: Trainer,
        state: TrainState,
        names: list[str],
        splits: tuple[str, ...],
        seed: int,
    ) -> dict[str, dict[str, list[float]]]:
        """Of tasks, on those of the splits that they have."""
        tasks = {name: self._experiment.tasks[name]._asdict() for name in names}
        return {
            name: {
                split: _shares(
                    trainer.accuracy(state.params, *task[split], jax.random.key(seed))
                )
                for split in splits
                if task[split]
            }
            for name, task in tasks.items()
        }

    @contextlib.contextmanager
    def _trail(self, phases: tuple[Phase, ...], seeds: list[int]) -> Iterator[Trail]:
        """The checkpoints along a phase, deleted unless what is within raises."""
        settings = self._experiment.settings
        made_by = {
            "setting": settings,
            "phase": dict(enumerate(as_json(phases))),
            "seed": dict(enumerate(seeds)),
            "block of": {"steps": _LOOP, "last batch": "filled up"},
            "version of": rows.provenance()["versions"],
        }
        name = f"{_in_file_name(phases[-1])}-{self._key(phases, seeds)}-along"
        alone = jax.process_count() == 1
        trail = Trail(name, made_by, self._saving if alone else None)
        try:
            yield trail
        except BaseException:
            trail.close()
            raise
        trail.close(delete=True)

    def _loop(
        self,
        title: str,
        trainer: Trainer,
        like: list[TrainState],
        begin: Callable[[], list[TrainState]],
        epochs: list[list[np.ndarray]],
        phase: Phase,
        trail: Trail,
    ) -> list[tuple[TrainState, dict[str, Any]]]:
        """Trains seeds side by side; an epoch's blocks are (seeds, steps, batch).

        It begins where the trail ends, and lengthens it: with states shaped like some,
        or where there is no trail with those that ``begin`` makes, which may take long.

        Returns:
          The state that each seed ended with, and what was measured on its way. Those
          that end before others train on with them, unseen.
        """
        seeds = range(len(like))
        blocks = [(e, block) for e, of_epoch in enumerate(epochs) for block in of_epoch]
        total = sum(block.shape[1] for _, block in blocks)
        every = total / self._experiment.measurements
        at = {"block": 0, "step": 0, "seconds": 0.0, "points": [], "ends": {}}
        ends: dict[str, TrainState] = {}

        def to_save(states: TrainState, ends: dict[str, TrainState]) -> dict[str, Any]:
            # Where all have ended, nobody needs what they trained on to.
            return {"ends": ends} | (
                {"states": states} if len(ends) < len(seeds) else {}
            )

        def shaped_as_saved(at: dict[str, Any]) -> dict[str, Any]:
            return to_save(_stacked(like), dict.fromkeys(at["ends"], like[0]))

        if saved := trail.restore(shaped_as_saved):
            at, found = saved
            ends, states = found["ends"], found.get("states")
        else:
            states = _stacked(begin())
        points = at["points"]

        def measure(following: np.ndarray | None) -> None:
            if not points or points[-1]["step"] < at["step"]:
                accuracy = self._curve_point(trainer, states)
                points.append({"step": at["step"], "accuracy": accuracy})
                bar.set_postfix(_in_words(accuracy))
            if following is not None:
                density = _each_seed(
                    lambda x: trainer.update_density(x[0], *self._data, x[1]),
                    (states, following),
                )
                points[-1]["density"] = np.asarray(density).tolist()

        def end(seed: int, epoch: int, loss: float) -> None:
            measure(None)
            tasks = self._experiment.tasks
            measured = [point for point in points if "density" in point]
            densities = [point["density"][seed] for point in measured]
            steps = np.diff([*(point["step"] for point in measured), at["step"]])
            at["ends"][str(seed)] = {
                "curve": {
                    "step": [point["step"] for point in points],
                    "accuracy": {
                        task: [point["accuracy"][task][seed] for point in points]
                        for task in tasks
                    },
                },
                "epochs": epoch,
                "last_loss": loss if np.isfinite(loss) else None,
                "update_density": float(np.average(densities, weights=steps)),
                "seconds": at["seconds"] / len(seeds),
            }
            ends[str(seed)] = jax.tree.map(lambda x: x[seed], states)

        with (
            self._sigterm.held(),
            tqdm(
                total=total,
                desc=title,
                unit="step",
                dynamic_ncols=True,
                initial=at["step"],
                disable=not sharding.is_first_process(),
            ) as bar,
        ):
            for epoch, block in blocks[at["block"] :]:
                if len(ends) == len(seeds) or self._sigterm.came:
                    break
                due = at["step"] >= every * len(points)
                if phase.stop_loss is not None and points:
                    before = points[-1]["step"]
                    gap = max(_MEASURE_EVERY, _MEASURE_SHARE * before)
                    due = block is epochs[epoch][0] and at["step"] >= before + gap
                if due:
                    measure(block[:, 0])
                start = time.perf_counter()
                steps = block.shape[1]
                # One shape, and so one program, for all lengths.
                padded = np.pad(block, ((0, 0), (0, _LOOP - steps), (0, 0)))
                states, losses = _train_steps(
                    trainer, states, self._data, padded, steps
                )
                last = np.asarray(losses)[:, steps - 1].astype(float)
                at["seconds"] += time.perf_counter() - start
                at["block"] += 1
                at["step"] += steps
                bar.update(steps)
                if block is epochs[epoch][-1]:
                    if phase.ewc and not phase.ewc.implicit:
                        strength = phase.ewc.strength
                        penalty = _penalty(states.params, states.opt_state, strength)
                        last += np.asarray(penalty)
                    for seed in seeds:
                        ended = epoch + 1 == len(epochs)
                        if phase.stop_loss is not None:
                            # Not finite: it never will be again.
                            small_enough = last[seed] <= phase.stop_loss
                            ended |= small_enough or not np.isfinite(last[seed])
                        if ended and str(seed) not in ends:
                            end(seed, epoch + 1, last[seed])
                if trail.is_due(at["step"]):
                    trail.save(at["step"], at, to_save(states, ends))
            trail.save(at["step"], at, to_save(states, ends))
            if self._sigterm.came:
                trail.wait()
        return [(ends[str(seed)], at["ends"][str(seed)]) for seed in seeds]

    def _curve_point(
        self, trainer: Trainer, states: TrainState
    ) -> dict[str, list[list[float]]]:
        """Accuracies on the beginning of each task's split: a pair a seed."""
        split, count = self._experiment.curve
        beginnings = {
            name: [x[:count] for x in getattr(task, split)]
            for name, task in self._experiment.tasks.items()
        }
        accuracies = _each_seed(
            lambda state: {
                name: trainer.accuracy(state.params, *data, state.dropout_key)
                for name, data in beginnings.items()
            },
            states,
        )
        return {
            name: np.transpose(pair).astype(float).round(6).tolist()
            for name, pair in accuracies.items()
        }

    def _trainer(self, phase: Phase) -> Trainer:
        # Phases that differ in their data alone share a compiled program.
        key = json.dumps(
            as_json((phase,))[0] | dict(epochs=None, replay=None, stop_loss=None)
        )
        if key not in self._trainers:
            make_model, preprocess = self._experiment[1:3]
            zeros = None
            if phase.ewc:
                shapes = nnx.eval_shape(lambda: make_model(nnx.Rngs(0)))
                zeros = jax.tree.map(
                    lambda p: jnp.zeros(p.shape, p.dtype), nnx.state(shapes, nnx.Param)
                )
            optimizer = make_optimizer(phase, fisher=zeros, anchor=zeros)
            self._trainers[key] = Trainer(
                make_model,
                optimizer,
                preprocess,
                self._mesh,
                self._experiment.dtype,
                self._experiment.heads,
            )
        return self._trainers[key]

    def _file(self, phases: tuple[Phase, ...], seed: int) -> pathlib.Path:
        name = f"{_in_file_name(phases[-1])}-{self._key(phases)}-seed-{seed}.npz"
        return self._checkpoints / name

    def _key(self, phases: tuple[Phase, ...], *more: Any) -> str:
        content = [self._experiment.settings, as_json(phases), *more]
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _with_penalty(
        self,
        title: str,
        earlier: tuple[Phase, ...],
        phase: Phase,
        before: Outcome,
        state: TrainState,
        seed: int,
    ) -> TrainState:
        """Puts Fisher and anchor into the optimizer's state."""
        data = self._first_task
        if phase.ewc.fisher == "steps":
            (collected,) = sums(before.state.opt_state)
            fisher = jax.tree.map(lambda s: s / before.state.step, collected.grad_sum)
            anchor = jax.tree.map(jnp.copy, state.params)
        elif phase.ewc.fisher == "batches":
            rate = arguments(phase)["learning_rate"]
            hyperparameters = dict(learning_rate=rate, power=2, apply_decay=False)
            first = next(iter(self._experiment.tasks))
            separate = Phase({first: 1}, "classp", hyperparameters)
            (outcome,) = self._after(
                f"{title}: Fisher", (separate,), [seed + _SEPARATE]
            )
            (collected,) = sums(outcome.state.opt_state)
            fisher = jax.tree.map(lambda s: s / len(data.labels), collected.grad_sum)
            anchor = outcome.state.params
        else:
            fisher = self._fisher_of_examples(earlier, phase, state, seed)
            anchor = jax.tree.map(jnp.copy, state.params)
            for so_far in states_of(before.state.opt_state, EwcPenaltyState):
                fisher, anchor = _several(phase, so_far, fisher, anchor)
        opt_state = set_penalty(state.opt_state, fisher, anchor)
        return state._replace(opt_state=opt_state)

    def _fisher_of_examples(
        self,
        earlier: tuple[Phase, ...],
        phase: Phase,
        state: TrainState,
        seed: int,
    ) -> optax.Params:
        """Of some that the phase before was trained on, at its last weights."""
        key = (self._file(earlier, seed).name, seed, phase.ewc.examples)
        if key not in self._fishers:
            examples = np.concatenate([self._range(t) for t in earlier[-1].epochs])
            rng = np.random.default_rng([seed, _SEPARATE])
            count = min(phase.ewc.examples, len(examples))
            which = examples[rng.choice(len(examples), count, replace=False)]
            weights = sum(p.size for p in jax.tree.leaves(state.params))
            self._fishers[key] = fisher_diagonal(
                self._trainer(phase).example_loss,
                state.params,
                self._data.inputs[which],
                self._data.labels[which],
                batch_size=min(32, max(1, _FISHER_WEIGHTS // weights)),
            )
        return self._fishers[key]

    def _range(self, task: str) -> np.ndarray:
        """Which of all tasks' examples are those of one."""
        names = list(self._experiment.tasks)
        sizes = [len(of.train.labels) for of in self._experiment.tasks.values()]
        start = sum(sizes[: names.index(task)])
        return start + np.arange(sizes[names.index(task)])

    def _batches(self, phase: Phase, number: int, seed: int) -> list[list[np.ndarray]]:
        """Which examples to train on: of each epoch blocks of (steps, batch), -1: none.

        The same for all methods, as long as their phases' data are.
        """
        rng = np.random.default_rng([seed, number])
        epochs = [
            rng.permutation(self._range(name))
            for name, count in phase.epochs.items()
            for _ in range(count)
        ]
        if len(phase.epochs) > 1:
            epochs = _mixed(epochs, set(phase.epochs.values()), rng)
        new = self._new_in_batch(phase, list(map(len, epochs)))
        blocks = [_blocks(epoch.astype(np.int32), new) for epoch in epochs]
        if phase.replay:
            kept = self._replayed(phase, seed, rng)
            replayed = phase.replay.in_batch
            for of_epoch in blocks:
                for i, block in enumerate(of_epoch):
                    drawn = rng.choice(kept, (len(block), replayed)).astype(np.int32)
                    of_epoch[i] = np.concatenate([block, drawn], axis=1)
        return blocks

    def _new_in_batch(self, phase: Phase, epochs: list[int]) -> int:
        """How many examples of a batch aren't replayed, of epochs of some lengths."""
        replayed = phase.replay.in_batch if phase.replay else 0
        new = self._experiment.batch_size - replayed
        if not 0 < new <= min(epochs):
            raise ValueError(
                f"A batch of {self._experiment.batch_size} examples, {replayed} of them"
                f" replayed, can't be drawn from {min(epochs)}."
            )
        return new

    def _earlier_tasks(self, phase: Phase) -> list[str]:
        """Those before a phase's."""
        names = list(self._experiment.tasks)
        earlier = names[: min(map(names.index, phase.epochs))]
        if not earlier:
            raise ValueError("The first task has none before it to replay.")
        return earlier

    def _replayed(
        self, phase: Phase, seed: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Which examples a phase keeps: of a memory, none that one before had not."""
        if phase.replay.memory is None:
            count = len(self._first_task.labels)
            return rng.choice(count, self._kept(phase), replace=False)
        earlier = self._earlier_tasks(phase)
        orders = [
            np.random.default_rng([seed, _SEPARATE, i]).permutation(self._range(task))
            for i, task in enumerate(earlier)
        ]
        each = max(1, phase.replay.memory // len(earlier))
        return np.concatenate([order[:each] for order in orders])

    def _kept(self, phase: Phase) -> int:
        """How many examples of earlier tasks a phase keeps."""
        if not phase.replay:
            return 0
        if phase.replay.memory is not None:
            return phase.replay.memory
        return max(1, round(phase.replay.share * len(self._first_task.labels)))

    def _bytes_per_weight(self, phase: Phase, state: TrainState) -> float:
        """Of the optimizer's state and the examples kept."""
        inputs = self._first_task.inputs
        examples = self._kept(phase) * inputs.nbytes / len(inputs)
        kept = sum(x.nbytes for x in jax.tree.leaves(state.opt_state)) + examples
        return kept / sum(p.size for p in jax.tree.leaves(state.params))


def _mixed(
    epochs: list[np.ndarray], counts: set[int], rng: np.random.Generator
) -> list[np.ndarray]:
    """Mixes several tasks' epochs: one by one if all have as many, else all in one."""
    count = counts.pop() if len(counts) == 1 else 1
    return [rng.permutation(np.concatenate(epochs[i::count])) for i in range(count)]


def _blocks(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Cuts an epoch into batches, and these into calls of the compiled loop.

    The last batch has -1 where nothing is left.
    """
    steps = -(-len(order) // size)
    rest = steps * size - len(order)
    batches = np.pad(order, (0, rest), constant_values=-1).reshape(steps, size)
    return [batches[i : i + _LOOP] for i in range(0, steps, _LOOP)]


def _check(experiment: Experiment) -> None:
    """Refuses data that the experiment can't be made of."""
    for what in ("batch_size", "measurements"):
        checks.check_from_1_on(what, getattr(experiment, what))
    checks.check_tasks(experiment.tasks, experiment.curve, experiment.splits)
    inputs = next(iter(experiment.tasks.values())).train.inputs
    two = jax.ShapeDtypeStruct((2, *inputs.shape[1:]), inputs.dtype)
    make_model, preprocess = experiment[1:3]
    trainer = Trainer(make_model, optax.identity(), preprocess, dtype=experiment.dtype)
    try:
        shape = trainer.logits_shape(two)
    except Exception as error:  # Whatever layers raise.
        raise ValueError(
            f"The model can't take inputs {inputs.dtype} of shape {two.shape}, two of"
            f" the first task's examples, preprocessed: {error}"
        ) from error
    checks.check_outputs(experiment.tasks, shape, experiment.heads)


def _check_each_phase(
    method: Method, check: Callable[[tuple[Phase, ...], Phase], None]
) -> None:
    """Calls a check with what precedes each phase and the phase; errors say which."""
    for number, phase in enumerate(method.phases):
        try:
            check(method.phases[:number], phase)
        except (TypeError, ValueError) as error:
            where = f"{method.title!r}, phase {number + 1}: "
            raise type(error)(f"{where}{error}") from error


def _in_file_name(phase: Phase) -> str:
    return name_of(phase.optimizer).rpartition(".")[2]


def _several(
    phase: Phase, before: EwcPenaltyState, fisher: optax.Params, anchor: optax.Params
) -> tuple[optax.Params, optax.Params]:
    """Fisher and anchor of the penalties so far and a further one, or online EWC's."""
    so_far, drawn_to = before.fisher, before.anchor
    if phase.ewc.decay is not None:
        decay = phase.ewc.decay
        return jax.tree.map(lambda f, g: decay * f + g, so_far, fisher), anchor

    # A sum of squared distances is one to their weighted mean, and a constant.
    def weighted_mean(
        f: jax.Array, w: jax.Array, g: jax.Array, v: jax.Array
    ) -> jax.Array:
        share = f / jnp.maximum(f + g, jnp.finfo(f.dtype).tiny)
        return (v + share * (w - v)).astype(v.dtype)

    return (
        jax.tree.map(jnp.add, so_far, fisher),
        jax.tree.map(weighted_mean, so_far, drawn_to, fisher, anchor),
    )


def _consolidated(phase: Phase, state: TrainState) -> TrainState:
    """The state with which Synaptic Intelligence begins a further task."""
    opt_state = consolidate(state.opt_state, state.params, phase.si.damping)
    return state._replace(opt_state=opt_state)


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, 0, None))
def _penalty(params: Any, opt_state: Any, strength: float) -> jax.Array:
    """EWC's, of each seed."""
    (of,) = states_of(opt_state, EwcPenaltyState)
    terms = jax.tree.map(
        lambda f, w, w_star: jnp.sum(f * (w - w_star) ** 2),
        of.fisher,
        params,
        of.anchor,
    )
    return strength / 2 * sum(jax.tree.leaves(terms))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _train_steps(
    trainer: Trainer,
    states: TrainState,
    data: Split,
    batches: np.ndarray,
    steps: int,
) -> tuple[TrainState, jax.Array]:
    """``trainer.train_steps`` of each seed, without a copy of their states."""
    return _each_seed(
        lambda x: trainer.train_steps(x[0], *data, x[1], steps), (states, batches)
    )


def _stacked(states: list[TrainState]) -> TrainState:
    stacked: TrainState = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    return stacked


def _each_seed(f: Callable[..., Any], stacked: Any) -> Any:
    """``f`` of each seed: side by side, or without a further axis for one alone."""
    if len(jax.tree.leaves(stacked)[0]) > 1:
        return jax.vmap(f)(stacked)
    alone = f(jax.tree.map(lambda x: x[0], stacked))
    return jax.tree.map(lambda x: x[None], alone)


def _in_words(point: dict[str, list[list[float]]]) -> dict[str, str]:
    """Accuracies, dropout off, for a progress bar."""
    return {task: f"{np.mean(pairs, 0)[0]:.1%}" for task, pairs in point.items()}


def _shares(accuracy: Accuracy) -> list[float]:
    return [round(float(share), 6) for share in accuracy]


def _save(file: pathlib.Path, outcome: Outcome) -> None:
    kept = sharding.fetch(outcome.state._replace(dropout_key=None))
    if sharding.is_first_process():
        checkpoints.save(file, kept, outcome.results)


def _load(file: pathlib.Path, like: TrainState) -> Outcome:
    """Reads an outcome; ``like`` is a state of the same structure and seed."""
    state, results = checkpoints.load(file, like._replace(dropout_key=None))
    return Outcome(state._replace(dropout_key=like.dropout_key), results)
