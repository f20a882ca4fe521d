"""Orthogonal weights modification (Zeng et al. 2019): an inverse of inputs' sums."""

import dataclasses
import functools
from collections import OrderedDict
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from examples.methods.projection import Projection
from examples.methods.registry import PROJECTION_RATES, TaskSequence, at_rates
from examples.runner.checks import check_above_0, check_positive_int
from examples.runner.evaluation import Classifier, Params
from examples.runner.layers import Layer
from examples.runner.plan import Family, Phase
from examples.runner.plugin import Boundary
from examples.runner.stored import Stored
from examples.runner.trainer import TrainState

FAMILY = Family("OWM", "#8c510a")
_AT_ONCE = 10  # Batches of stored examples in memory.
_REGULARIZERS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


@dataclasses.dataclass(frozen=True)
class OWM(Projection):
    r"""Orthogonal weights modification's projection before the optimizer.

    Where a task has ended its examples pass through the network once more, and each
    batch's mean input x of a layer renews that layer's matrix, which was the identity
    at first (the paper's Equations for P):

        k = P x / (regularizer + xᵀ P x),   P ← P - k xᵀ P

    Attributes:
      regularizer: alpha; the smaller, the less is left of a direction that was seen.
      batch: how many examples a mean is taken over.
    """

    regularizer: float
    batch: int

    key: ClassVar[str] = "owm"

    def check(self, phases_before: int, tasks_before: int, batch_size: int) -> None:
        """Refuses what the recursion would divide by, and no batch."""
        super().check(phases_before, tasks_before, batch_size)
        check_positive_int("owm's batch", self.batch)
        check_above_0("owm's regularizer", self.regularizer)

    def seen(
        self, context: Boundary, state: TrainState, examples: np.ndarray
    ) -> OrderedDict[Layer, jax.Array]:
        """The mean input of each whole batch, of a convolution at each place."""
        batch = min(self.batch, len(examples))
        whole = len(examples) // batch * batch
        batches = examples[:whole].reshape(-1, batch)
        inputs, of = context.data.inputs, context.trainer.classifier
        if not isinstance(inputs, Stored):
            means: OrderedDict[Layer, jax.Array] = _means(
                of, state.params, inputs, batches
            )
            return means
        parts = []
        for start in range(0, len(batches), _AT_ONCE):
            part = batches[start : start + _AT_ONCE]
            places = np.arange(part.size).reshape(part.shape)
            read = inputs[part.ravel()]
            parts.append(_means(of, state.params, read, places))
        return OrderedDict(
            (layer, jnp.concatenate([part[layer] for part in parts]))
            for layer in parts[0]
        )

    def renewed(self, matrix: np.ndarray, rows: np.ndarray, number: int) -> np.ndarray:
        """All steps of the recursion at once, by the matrix inversion lemma."""
        del number
        seen = rows @ matrix
        inner = self.regularizer * np.eye(len(rows)) + seen @ rows.T
        renewed: np.ndarray = matrix - seen.T @ np.linalg.solve(inner, seen)
        return renewed


@functools.partial(jax.jit, static_argnums=0)
def _means(
    classifier: Classifier, params: Params, inputs: jax.Array, batches: jax.Array
) -> OrderedDict[Layer, jax.Array]:
    def of_batch(batch: jax.Array) -> OrderedDict[Layer, jax.Array]:
        seen = classifier.layer_inputs(params, inputs[batch], None)
        return OrderedDict((layer, jnp.mean(x, axis=0)) for layer, x in seen.items())

    means: OrderedDict[Layer, jax.Array] = jax.lax.map(of_batch, batches)
    return means


def _phases(
    sequence: TaskSequence, regularizer: float, *, rate: float
) -> tuple[Phase, ...]:
    then = (OWM(regularizer, sequence.batch_size),)
    return sequence.phases("sgd", rate, then=then)


SWEEPS = at_rates("owm", "OWM", "α", _REGULARIZERS, _phases, FAMILY, PROJECTION_RATES)
