"""A new optimizer where a task begins, as who fine-tunes a checkpoint has."""

import dataclasses
from typing import ClassVar

from examples.runner.plugin import Boundary, Plugin
from examples.runner.trainer import TrainState


@dataclasses.dataclass(frozen=True)
class Restart(Plugin):
    """Begins with moments of zero, and a schedule at its first step."""

    key: ClassVar[str] = "restart"

    def at_boundary(self, context: Boundary, state: TrainState) -> TrainState:
        """Puts the optimizer's first state in the place of the one that goes on."""
        fresh = context.trainer.init(context.seed)
        return state._replace(opt_state=fresh.opt_state)
