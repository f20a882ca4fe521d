"""What is refused before anything is trained: methods that don't fit the tasks."""

from collections.abc import Callable

import jax
import numpy as np

from examples.runner import batches
from examples.runner.carry_over import carry_over, collected_sums, kind_of_sum
from examples.runner.checks import check_positive_int, check_splits
from examples.runner.data import Experiment
from examples.runner.plan import Method, Phase, as_json
from examples.runner.results import tasks_measured
from examples.runner.trainer import Trainer


def check_method(
    method: Method, experiment: Experiment, tasks: dict[str, np.ndarray]
) -> None:
    """Refuses what can't be trained.

    Args:
      method: the method.
      experiment: the model and the tasks.
      tasks: as :func:`examples.runner.batches.of_tasks` gives them.

    Raises:
      ValueError: there is no phase, a phase is on tasks that there aren't, a batch
        can't be drawn, a plugin refuses, or no task has a split that is asked for.
      TypeError: a hyperparameter is none of its optimizer's, or the phases are one
        alone, in no tuple.
    """
    if isinstance(method.phases, Phase):
        raise TypeError(
            f"{method.title!r}: phases must be a tuple of them, got one Phase;"
            " (phase,) may be what is meant."
        )
    if not method.phases:
        raise ValueError(f"{method.title!r} must have a phase at least, got none.")

    def check(earlier: tuple[Phase, ...], phase: Phase) -> None:
        _check_phase(phase, len(earlier), tasks, experiment.batch_size)

    _each_phase(method, check)
    names = tasks_measured(experiment, method.phases)
    check_splits(method.splits, [experiment.tasks[name] for name in names])


def check_transitions(method: Method, trainer_of: Callable[[Phase], Trainer]) -> None:
    """Makes the optimizers, and refuses a sum that is lost or of another form.

    Args:
      method: one that :func:`check_method` let pass.
      trainer_of: the trainer of a phase; nothing is compiled for it.

    Raises:
      ValueError: what a phase collects can't go on in the next, a plugin can't begin
        behind the phase before, or a hyperparameter is out of its range.
      TypeError: a hyperparameter is of another type.
    """

    def check(earlier: tuple[Phase, ...], phase: Phase) -> None:
        states = [trainer_of(p).shapes for p in (*earlier, phase)]
        if not earlier:
            return
        before = earlier[-1]
        for plugin in phase.plugins:
            plugin.check_boundary(before, states[-2])
        collecting = [bool(collected_sums(state.opt_state)) for state in states]
        if collecting[-1] and any(collecting[:-1]) and not collecting[-2]:
            raise ValueError(
                f"the sum that an earlier phase collected is lost, as"
                f" {before.optimizer_name} keeps none; classp with"
                " apply_decay=False, in its place, is SGD that goes on collecting."
            )
        if collecting[-1] and collecting[-2]:
            kinds = kind_of_sum(before), kind_of_sum(phase)
            if kinds[0] != kinds[1]:
                raise ValueError(
                    f"the phase before collects a sum of {kinds[0]}, which can't go on"
                    f" as one of {kinds[1]}; give both the same."
                )
        jax.eval_shape(carry_over, states[-2], states[-1])

    _each_phase(method, check)


def _check_phase(
    phase: Phase, number: int, tasks: dict[str, np.ndarray], batch_size: int
) -> None:
    unknown = [repr(name) for name in phase.epochs if name not in tasks]
    if unknown or not phase.epochs:
        raise ValueError(
            f"epochs must be of some of the tasks {', '.join(map(repr, tasks))}, got"
            f" {', '.join(unknown) or 'none'}."
        )
    for name, count in phase.epochs.items():
        check_positive_int(f"epochs of {name!r}", count)
    for plugin in phase.plugins:
        before = batches.tasks_before(phase, list(tasks))
        plugin.check(number, before, batch_size)
    penalties = [plugin.key for plugin in phase.plugins if plugin.is_penalty]
    if len(penalties) > 1:
        raise ValueError(
            f"a phase has one penalty at most, got {' and '.join(penalties)}."
        )
    batches.check(phase, tasks, batch_size)
    as_json((phase,))


def _each_phase(
    method: Method, check: Callable[[tuple[Phase, ...], Phase], None]
) -> None:
    """Calls a check with what precedes each phase and the phase; errors say which."""
    for number, phase in enumerate(method.phases):
        try:
            check(method.phases[:number], phase)
        except (TypeError, ValueError) as error:
            where = f"{method.title!r}, phase {number + 1}: "
            raise type(error)(f"{where}{error}") from error
