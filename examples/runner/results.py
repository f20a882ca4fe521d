"""What a row says of a phase: what it reached, its cost, what it was made with."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from classp_jax import ScaleByAccumulatedPowerNormState, unassigned_share
from examples.runner import rows
from examples.runner.carry_over import states_of
from examples.runner.data import Experiment, Split
from examples.runner.evaluation import Evaluation
from examples.runner.loop import Ended
from examples.runner.plan import Phase
from examples.runner.trainer import Trainer, TrainState


def of_phase(
    experiment: Experiment,
    phases: tuple[Phase, ...],
    trainer: Trainer,
    splits: tuple[str, ...],
    seed: int,
    end: Ended,
    mesh: jax.sharding.Mesh | None,
) -> dict[str, Any]:
    """What the rows say of a phase.

    Args:
      experiment: the model and the tasks, on the devices.
      phases: those so far, this one the last.
      trainer: of the phase.
      splits: to measure on.
      seed: of the run.
      end: where the phase ended, and what was measured on the way.
      mesh: the devices.

    Returns:
      What JSON can hold.
    """
    state, measured = end
    names = tasks_measured(experiment, phases)
    result = {
        experiment.measure: _evaluated(experiment, trainer, state, names, splits, seed),
        **measured,
        **rows.provenance(mesh),
        "bytes_per_weight": _bytes_per_weight(experiment, phases[-1], state),
        "finite": all(
            bool(jnp.isfinite(p).all()) for p in jax.tree.leaves(state.params)
        ),
    }
    if states_of(state.opt_state, ScaleByAccumulatedPowerNormState):
        result["unassigned_share"] = float(unassigned_share(state.opt_state))
    if (is_open := optax.tree.get(state.opt_state, "is_open")) is not None:
        result["is_open"] = bool(is_open)
    if experiment.measure_unseen and len(phases) == 1:
        untrained = trainer.init(seed)
        result["untrained"] = _evaluated(
            experiment, trainer, untrained, names, splits, seed
        )
    return result


def tasks_measured(experiment: Experiment, phases: tuple[Phase, ...]) -> list[str]:
    """The tasks that are measured behind the last of some phases."""
    return [
        name
        for name in experiment.tasks
        if experiment.measure_unseen or any(name in phase.epochs for phase in phases)
    ]


def _evaluated(
    experiment: Experiment,
    trainer: Trainer,
    state: TrainState,
    names: list[str],
    splits: tuple[str, ...],
    seed: int,
) -> dict[str, dict[str, list[float]]]:
    """Of tasks, on those of the splits that they have."""
    tasks: dict[str, dict[str, Split | None]] = {
        name: experiment.tasks[name]._asdict() for name in names
    }
    return {
        name: {
            split: _numbers(trainer.evaluate(state.params, *data, jax.random.key(seed)))
            for split in splits
            if (data := task[split])
        }
        for name, task in tasks.items()
    }


def _numbers(of: Evaluation) -> list[float]:
    return [round(float(mean), 6) for mean in of if mean is not None]


def _bytes_per_weight(experiment: Experiment, phase: Phase, state: TrainState) -> float:
    """Of the optimizer's state and the examples kept."""
    first = next(iter(experiment.tasks.values())).train
    count = len(first.labels)
    examples = sum(plugin.examples_kept(count) for plugin in phase.plugins)
    kept = sum(x.nbytes for x in jax.tree.leaves(state.opt_state))
    weights = sum(p.size for p in jax.tree.leaves(state.params))
    return float((kept + examples * first.inputs.nbytes / count) / weights)
