"""What each hyperparameter is at every step of a run, in every parameter group."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

# What hyperparameters go through, unless the user gives them. 0.25 and 0.0625 have
# exact roots, which the gradient streams hit, and an eps of 0.01 is large enough for
# its place in the formula to show. On the models a threshold makes two correct runs
# jump apart wherever a gradient is close to it, and so does Equation 1 with a small
# eps, where a weight without history meets its first gradient.
VALUES: dict[str, dict[str, list[float]]] = {
    "random": dict(
        learning_rate=[0.1, 0.3, 0.05, 0.2],
        threshold=[0.25, 0.0, 0.0625],
        eps=[0.01, 0.1, 0.003],
        damping=[1.0, 4.0, 0.5],
    ),
    "model": dict(
        learning_rate=[0.01, 0.03, 0.005],
        threshold=[0.0],
        eps=[0.1, 0.3],
        damping=[0.1, 0.3],
    ),
}
# The released class compares a bool with it, so that from 1 on nothing moves.
RELEASED_THRESHOLDS = [0.25, 0.0, 1.0]
# Those of each group. One that is always the same stays a Python number to JAX, for
# which it has faster formulas; of several it has one compiled step.
POWERS = [[2.0], [1.0], [1.5, 2.0]]
# To JAX, an exponent and the steps to the next refresh are always Python numbers.
EXPONENTS = [[1.0], [0.5], [2.0]]
REFRESHES = {"random": 3, "model": 10}

# For each group, by the option's name, a value for each step.
Schedule: TypeAlias = list[dict[str, list[Any]]]

# How often a value changes: seldom enough that what an optimizer changes by itself
# has time to show before the next value is written over it.
_CHANGES = 0.2


def gates(steps: int, decay_from: int | None, groups: int) -> list[list[bool]]:
    """Whether the decay is open at each step, for each group.

    Args:
      steps: how many.
      decay_from: the step, counted from 1, at which it opens to stay open; None to
        open and close it twice, a little later in each further group.
      groups: how many.

    Returns:
      A list for each group.
    """
    if decay_from is not None:
        return [[step >= decay_from - 1 for step in range(steps)]] * groups
    first = range(steps // 4, steps // 2)
    second = range(steps * 3 // 4, steps - steps // 10)
    shifts = [group * steps // 20 for group in range(groups)]
    return [
        [step - shift in first or step - shift in second for step in range(steps)]
        for shift in shifts
    ]


def schedule(
    values: Mapping[str, Sequence[float]],
    of_group: Mapping[str, Sequence[Sequence[float]]],
    is_open: Sequence[Sequence[bool]],
    *,
    varied: Collection[str],
    shared: Collection[str],
    seed: int,
) -> Schedule:
    """The values of all hyperparameters.

    Args:
      values: for each hyperparameter those it takes; of one that isn't varied, the
        first while the first group's decay is closed, and the last while it is open.
      of_group: those that each group takes one after the other, of "power" and others.
      is_open: of each group, as :func:`gates` has it.
      varied: those that go through their values one after the other, at random steps.
      shared: those that all groups have the first one's values of; the others' values
        are never the same in two groups, if there are enough.
      seed: of the random steps.

    Returns:
      A dictionary for each group, of ``values``, ``of_group`` and "apply_decay".
    """
    steps = len(is_open[0])

    def changes(number: int) -> list[int]:
        rng = np.random.default_rng([seed, number])
        return list(np.cumsum(rng.random(steps) < _CHANGES))

    groups: Schedule = [{"apply_decay": list(gate)} for gate in is_open]
    for name, choices_of in of_group.items():
        for group, choices in zip(groups, choices_of, strict=True):
            turns = changes(len(values))
            group[name] = [choices[turn % len(choices)] for turn in turns]
    for number, (name, choices) in enumerate(values.items()):
        turns = [-int(gate) for gate in is_open[0]]
        if name in varied:
            turns = changes(number)
        for k, group in enumerate(groups):
            ahead = k if name in varied and name not in shared else 0
            group[name] = [choices[(turn + ahead) % len(choices)] for turn in turns]
    if "apply_decay" in shared:
        for group in groups:
            group["apply_decay"] = groups[0]["apply_decay"]
    return groups
