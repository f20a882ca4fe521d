"""What a run, even one that agrees, doesn't show."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from classp_jax.verify._schedule import Schedule

_NAMES = {
    "learning_rate": "learning rate",
    "threshold": "threshold",
    "eps": "eps",
    "damping": "damping",
    "power": "p",
    "exponent": "exponent",
    "refresh_every": "refresh_every",
}


def limits(
    schedule: Schedule,
    *,
    sizes: tuple[float, float] | None,
    finite: bool,
    has_accumulators: bool,
    bounds: str,
    untouched: Sequence[str] = (),
) -> list[str]:
    """What an optimizer could do wrong without a difference in this run.

    Args:
      schedule: the values of all hyperparameters, of each group.
      sizes: those of the tiny and the huge gradients that reach the corners, None where
        others were used.
      finite: whether all of these were finite.
      has_accumulators: whether the accumulators were compared.
      bounds: the differences allowed, in words.
      untouched: those arguments of the PyTorch class that kept their defaults.

    Returns:
      A phrase for each.
    """
    found = [f"what begins after step {len(schedule[0]['apply_decay'])}"]
    if untouched:
        found.append(
            f"{', '.join(untouched)} of the PyTorch class, which kept their defaults"
            " (rename them as the options are called, or use --torch-args)"
        )
    found += _of_the_gate(schedule[0]["apply_decay"])
    values = {
        name: sorted({value for group in schedule for value in group[name]})
        for name in _NAMES
        if name in schedule[0]
    }
    held = [n for n in values if all(len({*group[n]}) == 1 for group in schedule)]
    if held:
        found.append(f"a change of {' or '.join(_NAMES[name] for name in held)}")
    first, *others = schedule
    alike = [_NAMES[n] for n in values if all(g[n] == first[n] for g in others)]
    if not others:
        found.append("parameter groups")
    elif alike:
        found.append(f"a group's own {' or '.join(alike)}")
    for name in ("power", "exponent", "refresh_every"):
        if chosen := values.pop(name, []):
            listed = ", ".join(f"{value:g}" for value in chosen)
            found.append(f"{_NAMES[name]} other than {listed}")
        if name == "power" and chosen == [1]:
            found.append(
                "a power or an eps out of place, which p = 1 hides (--power 2)"
            )
    of_directions = "exponent" in schedule[0]
    if of_directions:
        found.append("a sketch (rank)")
    ranges = [
        f"{_NAMES[name]} {'-'.join(f'{x:g}' for x in dict.fromkeys([of[0], of[-1]]))}"
        for name, of in values.items()
    ]
    found.append(f"values beyond {', '.join(ranges)}")
    if sizes is None:
        found.append("gradients that are None, NaN, infinite, tiny or huge")
    else:
        if finite:
            found.append(
                "gradients that are NaN or infinite (a class without threshold)"
            )
        tiny, huge = sizes
        found.append(f"gradients below {tiny / 10:.0e} or above {huge:.0e}")
        found.append("tensors of five axes or more")
        if of_directions:
            found.append("blocks (more inputs than max_dim)")
    if not has_accumulators:
        found.append("the accumulators but for what the weights show of them")
    found.append(f"differences within {bounds}")
    found.append(
        "state_dict, add_param_group, closures, sparse gradients, other devices"
    )
    return found


def _of_the_gate(is_open: list[bool]) -> list[str]:
    """Of the first group, in the order of its steps."""
    changes = {*itertools.pairwise(is_open)}
    if True not in is_open:
        return ["the division: the decay never opens"]
    if False not in is_open:
        return ["the decay closed: it is open throughout"]
    missing = {(False, True): "opens", (True, False): "closes again"}
    return [
        f"a decay that {what}"
        for change, what in missing.items()
        if change not in changes
    ]
