"""What a run keeps on disk of its phases, by what they are: ends and checkpoints."""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from examples.runner import batches, checkpoints, rows, sharding
from examples.runner.checkpoints import Saving, Trail
from examples.runner.evaluation import Params
from examples.runner.plan import Phase, as_json
from examples.runner.trainer import TrainState


class Outcome(NamedTuple):
    """What the phases of one seed led to.

    Attributes:
      state: the state behind the last of them.
      results: what was measured, a dictionary a phase.
    """

    state: TrainState
    results: list[dict[str, Any]]


class _Kept(NamedTuple):
    """A state less its random key, which the seed gives anew."""

    params: Params
    opt_state: Any
    step: jax.Array

    @classmethod
    def of(cls, state: TrainState) -> "_Kept":
        return cls(state.params, state.opt_state, state.step)


class PhaseEnds(NamedTuple):
    """The files of an experiment's phases; other phases or settings have other names.

    Attributes:
      settings: of the experiment, as the rows have them.
      folder: of all checkpoints.
      saving: how often a phase is saved along its way; None for never.
    """

    settings: dict[str, Any]
    folder: pathlib.Path
    saving: Saving | None

    def key(self, phases: tuple[Phase, ...], *more: Any) -> str:
        """A name for phases, the same for equal computations."""
        content = [self.settings, as_json(phases), *more]
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def file(self, phases: tuple[Phase, ...], seed: int) -> pathlib.Path:
        """Where the end of the last of some phases is kept."""
        name = f"{_in_file_name(phases[-1])}-{self.key(phases)}-seed-{seed}.npz"
        return self.folder / name

    def save(self, phases: tuple[Phase, ...], outcomes: dict[int, Outcome]) -> None:
        """Writes what phases led to, by seed."""
        for seed, outcome in outcomes.items():
            kept = sharding.to_host(_Kept.of(outcome.state))
            if sharding.is_first_process():
                file = self.file(phases, seed)
                checkpoints.save(file, kept, outcome.results)
        sharding.barrier("checkpoints")

    def load(self, phases: tuple[Phase, ...], seed: int, like: TrainState) -> Outcome:
        """Reads an outcome; ``like`` is a state of the same structure and seed."""
        file = self.file(phases, seed)
        kept, results = checkpoints.load(file, _Kept.of(like))
        return Outcome(like._replace(**kept._asdict()), results)

    @contextlib.contextmanager
    def trail(self, phases: tuple[Phase, ...], seeds: list[int]) -> Iterator[Trail]:
        """The checkpoints along a phase, deleted unless what is within raises."""
        made_by = {
            "setting": self.settings,
            "phase": dict(enumerate(as_json(phases))),
            "seed": dict(enumerate(seeds)),
            "block of": {"steps": batches.BLOCK, "last batch": "filled up"},
            "version of": rows.provenance()["versions"],
        }
        name = f"{_in_file_name(phases[-1])}-{self.key(phases, seeds)}-along"
        alone = jax.process_count() == 1
        trail = Trail(name, made_by, self.saving if alone else None)
        try:
            yield trail
        except BaseException:
            trail.close()
            raise
        trail.close(delete=True)


def _in_file_name(phase: Phase) -> str:
    return phase.optimizer_name.rpartition(".")[2]
