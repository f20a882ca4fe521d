"""A study: what an experiment compares, and what its paper published."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from examples.runner.plan import Family, Method, Phase

READINGS = {
    "classp": "Algorithm 1",
    "classp_equation1": "Equation 1",
    "classp_released": "released",
}
ALL_SPLITS = ("train", "test")
SPLIT_TITLES = {"train": "training set", "test": "test set"}
Published = tuple[tuple[float, float], tuple[float, float]]
"""Mean and deviation of the paper's runs on the first and the second task, in %."""


class Front(NamedTuple):
    """A method's Pareto front, along the one setting that trades old tasks for new.

    Attributes:
      title: what to call it.
      knob: the setting, in words.
      methods: a method a value of it, in their order.
      values: of the setting, by the method's name.
      family: whose colour it has in figures.
    """

    title: str
    knob: str
    methods: dict[str, Method]
    values: dict[str, float]
    family: Family


class Study(NamedTuple):
    """Methods on two tasks, one learned after the other.

    Attributes:
      experiment: as the rows name it; ``examples.<experiment>`` runs it.
      title: of its page.
      table: of the paper, that it reproduces.
      tasks: what to call each task, the first one first.
      judged_on: the split of each task that tells what was learned: held out, if any
        is.
      nothing: the accuracy on each task, in %, below which a run has learned nothing.
      groups: methods by their names, by the groups that the command line knows.
        ``paper`` are the rows of the paper's table, ``joint`` the upper bound.
      published: the paper's numbers for its rows.
      fronts: of those methods that have a setting to sweep.
    """

    experiment: str
    title: str
    table: str
    tasks: dict[str, str]
    judged_on: dict[str, str]
    nothing: dict[str, float]
    groups: dict[str, dict[str, Method]]
    published: dict[str, Published]
    fronts: list[Front]

    @property
    def methods(self) -> dict[str, Method]:
        """All of them, by their names."""
        return {name: m for group in self.groups.values() for name, m in group.items()}

    @property
    def first(self) -> str:
        """The task learned first."""
        return next(iter(self.tasks))


def make_front(
    name: str,
    title: str,
    knob: str,
    family: Family,
    phases: dict[float, tuple[Phase, ...]],
    splits: tuple[str, ...] = ("test",),
) -> Front:
    """Makes a front.

    Args:
      name: what its methods' names begin with; their values follow.
      title: what to call it.
      knob: the setting, in words.
      family: whose colour it has in figures.
      phases: a method's phases by the value of the setting.
      splits: on which accuracy is measured at the end.

    Returns:
      The front.
    """
    methods = {
        f"{name}_{value:g}": Method(
            f"{title}, {knob} {value:g}", of_value, splits, family
        )
        for value, of_value in phases.items()
    }
    values = dict(zip(methods, phases, strict=True))
    return Front(title, knob, methods, values, family)


def of_fronts(fronts: list[Front]) -> dict[str, Method]:
    """The methods of all fronts, by their names."""
    return {name: m for front in fronts for name, m in front.methods.items()}


def families(names: Iterable[str]) -> list[str]:
    """Names, those that differ in a number at their end as one that shells expand.

    ``ewc_10`` and ``ewc_30`` are ``ewc_{10,30}``.
    """
    values: dict[str, list[str]] = {}
    for name in names:
        stem, underscore, value = name.rpartition("_")
        numeric = re.fullmatch(r"[\d.]+(e-?\d+)?", value)
        key = stem + underscore if numeric else name
        values.setdefault(key, []).append(value if numeric else "")
    return [
        key + (of_key[0] if len(of_key) == 1 else f"{{{','.join(of_key)}}}")
        for key, of_key in values.items()
    ]
