"""CLASSP with a sum for each direction of a layer's inputs."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax.numpy as jnp

import classp_jax
from examples.methods.registry import RATE, Sweep, TaskSequence, at_rates
from examples.runner.carry_over import replaced
from examples.runner.optimizers import register_optimizer
from examples.runner.plan import Family, Phase
from examples.runner.plugin import Boundary, Plugin
from examples.runner.trainer import TrainState

FAMILY = Family("CLASSP, directions", "#7b3294", ours=True)
_DAMPINGS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
# What a direction has moved when it has slowed to a half is of the order of ακ, which
# the scale keeps.
_SPEEDS = {
    "": (RATE, 1.0, ""),
    "_slow": (0.01, 5.0, ", α 0.01"),
    "_fast": (0.2, 0.2, ", α 0.2"),
}

register_optimizer(classp_jax.classp_gram)


@dataclasses.dataclass(frozen=True)
class Refresh(Plugin):
    """A refresh where a task begins, as ``update(..., refresh=True)`` there would."""

    key: ClassVar[str] = "refresh"

    def at_boundary(self, context: Boundary, state: TrainState) -> TrainState:
        """Lets the optimizer begin to count anew, which makes the first step due."""
        del context
        return state._replace(
            opt_state=replaced(
                state.opt_state,
                classp_jax.ScaleByAccumulatedGramState,
                lambda gram: gram._replace(count=jnp.zeros_like(gram.count)),
            )
        )


def phases(
    sequence: TaskSequence,
    damping: float,
    *,
    rank: int | None,
    rate: float = RATE,
    **hyperparameters: Any,
) -> tuple[Phase, ...]:
    """A phase a task; all alike unless ``hyperparameters`` has plugins, ``then``."""
    return sequence.phases(
        "classp_gram", rate, damping=damping, rank=rank, **hyperparameters
    )


def _of_rank(rank: int) -> Sweep:
    title, of_rank = f"CLASSP, {rank} directions", functools.partial(phases, rank=rank)
    return Sweep(f"gram_{rank}", title, "κ", _DAMPINGS, of_rank, FAMILY, "rank")


def _grid(name: str, title: str, rank: int | None, **announced: Any) -> list[Sweep]:
    of_rank = functools.partial(phases, rank=rank, **announced)
    return at_rates(name, title, "κ", _DAMPINGS, of_rank, FAMILY, _SPEEDS)


SWEEPS = [
    *_grid("gram", "CLASSP, directions", None),
    *_grid("gram_64", "CLASSP, 64 directions", 64),
    *_grid(
        "gram_64_announced",
        "CLASSP, 64 directions, tasks announced",
        64,
        refresh_every=None,
        then=(Refresh(),),
    ),
    *map(_of_rank, (16, 32, 128)),
]
