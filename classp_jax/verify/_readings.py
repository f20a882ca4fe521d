"""What can be compared: the readings of the paper, and sums of directions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import classp_jax
from classp_jax.verify import reference


class Reading(NamedTuple):
    """An optimizer in both frameworks.

    Attributes:
      make: JAX's, of its hyperparameters.
      reference: the PyTorch class.
      arguments: what that is made with.
      varied: the hyperparameters that change along a run.
      of_group: those that each parameter group has for itself.
      outputs_first: whether bare parameters are as PyTorch's layers have them, with the
        axis of the outputs in front, since the inputs' is another matter.
    """

    make: Callable[..., Any]
    reference: Any
    arguments: dict[str, Any]
    varied: tuple[str, ...] = ("learning_rate", "threshold", "eps")
    of_group: tuple[str, ...] = ("power",)
    outputs_first: bool = False


OF_THE_PAPER = {
    name: Reading(make, reference.Classp, {"reading": name})
    for name, make in (
        ("algorithm1", classp_jax.classp),
        ("equation1", classp_jax.classp_equation1),
        ("released", classp_jax.classp_released),
    )
}
READINGS = {
    **OF_THE_PAPER,
    "gram": Reading(
        functools.partial(classp_jax.classp_gram, rank=None),
        reference.ClasspGram,
        {},
        varied=("learning_rate", "threshold", "damping"),
        of_group=("exponent", "refresh_every"),
        outputs_first=True,
    ),
}
