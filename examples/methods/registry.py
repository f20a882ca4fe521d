"""What the streams compare: the settings that each method's file says to sweep."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from examples.runner.discovery import values
from examples.runner.optimizers import Maker
from examples.runner.plan import Family, Phase
from examples.runner.plugin import Plugin

# In the order of the tables; a file that isn't named here comes behind these.
_FIRST = (
    "classp",
    "gram",
    "plain",
    "sc_adagrad",
    "ewc",
    "l2_sp",
    "mas",
    "synaptic_intelligence",
    "owm",
    "gpm",
    "recursive_least_squares",
    "additive_head",
    "replay",
    "joint",
)
# Nine values each: of SGD's rate and what acts like it, then half a decade apart.
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
ADAPTIVE_RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1)
# Of the SGD that penalties are added to: between the best of SGD alone, whose choice is
# how little it moves, and that of CLASSP, in
# results/streams/permuted_mnist/domain-mlp/validation.
RATE = 0.05
# The best of SGD alone on domain-incremental Split MNIST, and on Rotated MNIST; the
# strengths are scaled, as what a penalty does is of the order of rate times strength.
PENALTY_RATES = {
    "": (RATE, 1.0, ""),
    "_slow": (0.002, 100.0, ", SGD at 0.002"),
    "_fast": (0.2, 0.1, ", SGD at 0.2"),
}
# Of what keeps directions: the rate of GPM's paper, and the fast one above.
PROJECTION_RATES = {
    "": (RATE, 1.0, ""),
    "_slow": (0.01, 1.0, ", SGD at 0.01"),
    "_fast": (0.2, 1.0, ", SGD at 0.2"),
}


class TaskSequence(NamedTuple):
    """Tasks to learn, one after the other.

    Attributes:
      tasks: their names.
      epochs: on each.
      batch_size: examples a step.
    """

    tasks: tuple[str, ...]
    epochs: int
    batch_size: int

    def phases(
        self,
        optimizer: str | Maker,
        learning_rate: float,
        *,
        first: tuple[Plugin, ...] = (),
        then: tuple[Plugin, ...] = (),
        **hyperparameters: Any,
    ) -> tuple[Phase, ...]:
        """A phase a task.

        Args:
          optimizer: of all of them.
          learning_rate: likewise.
          first: the plugins of the first.
          then: those of the others.
          **hyperparameters: the optimizer's further ones.

        Returns:
          The phases.
        """
        hyperparameters["learning_rate"] = learning_rate
        return tuple(
            Phase({task: self.epochs}, optimizer, hyperparameters, then if i else first)
            for i, task in enumerate(self.tasks)
        )


class Sweep(NamedTuple):
    """A method, and the values of its one setting to choose among.

    Attributes:
      name: what its settings' names begin with.
      title: what to call it.
      knob: the setting, in words.
      values: of the setting.
      phases: what it does, by the tasks and a value.
      family: whose colour it has in figures.
      group: that the command line knows.
      grid: the name of the sweep that differs from this one in a second setting alone,
        such as a rate: all sweeps that name it are, with it, one method's grid of two
        settings. By default a sweep is a grid of its own.
    """

    name: str
    title: str
    knob: str
    values: tuple[float, ...]
    phases: Callable[[TaskSequence, float], tuple[Phase, ...]]
    family: Family
    group: str = "all"
    grid: str = ""


def same_throughout(
    optimizer: str | Maker,
) -> Callable[[TaskSequence, float], tuple[Phase, ...]]:
    """A sweep's ``phases``: an optimizer that knows of no tasks, by its rate."""
    return lambda sequence, rate: sequence.phases(optimizer, rate)


def at_rates(
    name: str,
    title: str,
    knob: str,
    values: tuple[float, ...],
    phases: Callable[..., tuple[Phase, ...]],
    family: Family,
    rates: dict[str, tuple[float, float, str]],
) -> list[Sweep]:
    """A method's grid of two settings: a sweep for each of some rates.

    Args:
      name: what the settings' names begin with.
      title: what to call it.
      knob: the other setting, in words.
      values: to choose among at :data:`RATE`.
      phases: what it does, by the tasks, a value and, by name, the ``rate``.
      family: whose colour it has.
      rates: by what the name ends with, the rate, what the values are multiplied by
        there (and rounded to a digit), and what the title ends with.

    Returns:
      A sweep a rate.
    """
    return [
        Sweep(
            name + end,
            title + at,
            knob,
            values
            if scale == 1
            else tuple(float(f"{scale * value:.1g}") for value in values),
            functools.partial(phases, rate=rate),
            family,
            grid=name,
        )
        for end, (rate, scale, at) in rates.items()
    ]


def with_penalty(
    name: str,
    title: str,
    penalty: Callable[[float], Plugin],
    strengths: tuple[float, ...],
    family: Family,
    *,
    first: bool = False,
) -> list[Sweep]:
    """The sweeps of a penalty on SGD, at each of its rates.

    Args:
      name: what the settings' names begin with.
      title: what to call it.
      penalty: by its strength.
      strengths: to choose among at :data:`RATE`; at another they are scaled.
      family: whose colour it has.
      first: whether the first task is learned with it too.

    Returns:
      A sweep a rate.
    """

    def phases(
        sequence: TaskSequence, strength: float, *, rate: float
    ) -> tuple[Phase, ...]:
        plugins = (penalty(strength),)
        before = plugins if first else ()
        return sequence.phases("sgd", rate, first=before, then=plugins)

    return at_rates(name, title, "λ", strengths, phases, family, PENALTY_RATES)


def further(of: list[Sweep]) -> list[Sweep]:
    """Sweeps that ``all`` leaves out: they have no rows yet."""
    return [sweep._replace(group="further") for sweep in of]


@functools.cache
def sweeps() -> tuple[Sweep, ...]:
    """All of them: the ``SWEEPS`` of every file here that has some.

    Raises:
      TypeError: those of a file aren't a list of sweeps.
    """
    found = values("examples.methods", "SWEEPS")
    for name, of_file in found.items():
        if not all(isinstance(sweep, Sweep) for sweep in of_file):
            raise TypeError(f"SWEEPS of {name}.py must be a list of Sweep's.")
    names = [name for name in _FIRST if name in found]
    names += [name for name in found if name not in _FIRST]
    return tuple(sweep for name in names for sweep in found[name])
