"""What OWM and GPM share: gradients projected off what earlier tasks' layers saw."""

import dataclasses
from collections import OrderedDict
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.runner import layers
from examples.runner.carry_over import replaced, states_of
from examples.runner.layers import Layer
from examples.runner.plan import Phase
from examples.runner.plugin import Boundary, Plugin
from examples.runner.trainer import TrainState

_SAMPLE = 2000  # Beside the seed: of the order in which a task's examples are taken.


class ProjectionState(NamedTuple):
    """State of :func:`project`.

    Attributes:
      matrices: of each layer, symmetric, shape ``(inputs, inputs)``, with a bias one
        row and column more, dtype ``float32``: 4·inputs² bytes a layer.
    """

    matrices: dict[Layer, jax.Array]


def project() -> optax.GradientTransformation:
    """Multiplies each layer's gradient G, (inputs, outputs), by a matrix: P G.

    At first the matrices are the identity; :class:`Projection` renews them. A gradient
    of no layer's kernel or bias passes as it is.

    Returns:
      An Optax transformation.
    """

    def init_fn(params: optax.Params) -> ProjectionState:
        return ProjectionState(
            {
                layer: jnp.eye(len(matrix), dtype=jnp.float32)
                for layer, matrix in layers.matrices(params).items()
            }
        )

    def update_fn(
        updates: optax.Updates, state: ProjectionState, params: Any = None
    ) -> tuple[optax.Updates, ProjectionState]:
        del params
        projected = {
            layer: state.matrices[layer] @ gradient
            for layer, gradient in layers.matrices(updates).items()
        }
        return layers.with_matrices(updates, projected), state

    return optax.GradientTransformation(init_fn, update_fn)


@dataclasses.dataclass(frozen=True)
class Projection(Plugin):
    """Projects each gradient before the optimizer, from the second task on.

    This one projects on all directions; another renews its matrices.
    """

    key: ClassVar[str] = "projection"

    def check(self, phases_before: int, tasks_before: int, batch_size: int) -> None:
        """Refuses a phase with none before it to keep."""
        del tasks_before, batch_size
        if not phases_before:
            raise ValueError(
                f"{self.key} keeps what a phase before learned, got the first."
            )

    def wrap(
        self,
        optimizer: optax.GradientTransformation,
        phase: Phase,
        zeros: optax.Params,
    ) -> optax.GradientTransformation:
        """Puts the projection before the optimizer; its matrices come at boundaries."""
        del phase, zeros
        return optax.chain(project(), optimizer)

    def wrapping(self) -> Plugin:
        """The projection: what renews its matrices isn't compiled."""
        return Projection()

    def at_boundary(self, context: Boundary, state: TrainState) -> TrainState:
        """Takes from each layer's matrix what the phase that has ended needs."""
        rng = np.random.default_rng([context.seed, _SAMPLE])
        seen = self.seen(context, state, rng.permutation(context.ended()))
        (so_far,) = states_of(state.opt_state, ProjectionState)
        matrices = dict(so_far.matrices)
        for number, (layer, of_layer) in enumerate(seen.items()):
            # In double precision: what is left of a direction is a difference.
            before = np.asarray(matrices[layer], np.float64)
            rows = np.asarray(of_layer, np.float64).reshape(-1, len(before))
            renewed = self.renewed(before, rows, number)
            matrices[layer] = jnp.asarray(renewed, jnp.float32)
        opt_state = replaced(
            state.opt_state, ProjectionState, lambda _: ProjectionState(matrices)
        )
        return state._replace(opt_state=opt_state)

    def seen(
        self, context: Boundary, state: TrainState, examples: np.ndarray
    ) -> OrderedDict[Layer, jax.Array]:
        """What the layers saw of the phase that has ended.

        Args:
          context: of the boundary.
          state: what that phase ended with.
          examples: which are its own, in random order.

        Returns:
          Of each layer in the order of the calls, (..., inputs).
        """
        raise NotImplementedError

    def renewed(self, matrix: np.ndarray, rows: np.ndarray, number: int) -> np.ndarray:
        """A layer's matrix, less what it saw.

        Args:
          matrix: so far, (inputs, inputs), float64.
          rows: what it saw, (n, inputs), float64.
          number: of the layer, from 0 on.

        Returns:
          The matrix from now on.
        """
        raise NotImplementedError
