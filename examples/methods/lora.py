"""Low-rank adaptation (Hu et al. 2021): only adapters of the matrices train."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import optax
from flax import nnx

from examples.runner.checks import check_positive_int
from examples.runner.plan import Family, Phase
from examples.runner.plugin import MakeModel, Plugin

FAMILY = Family("LoRA", "#aa3377")


@dataclasses.dataclass(frozen=True)
class LoRA(Plugin):
    """Adapters in its phase's model, and an optimizer of them alone.

    The phases before have none, so that all methods share them. What a further phase
    with the plugin adapts are the same adapters. The model must take ``lora_rank``.

    Attributes:
      rank: of the adapters.
    """

    rank: int

    key: ClassVar[str] = "lora"

    def check(self, phases_before: int, tasks_before: int, batch_size: int) -> None:
        """Refuses the first phase, before which there is nothing to adapt."""
        del tasks_before, batch_size
        check_positive_int("lora's rank", self.rank)
        if not phases_before:
            raise ValueError("lora adapts a phase before, got the first.")

    def model(self, make_model: MakeModel) -> MakeModel:
        """The model with adapters, which change nothing at first."""
        adapted: Any = make_model  # As the type doesn't know of its further arguments.
        return functools.partial(adapted, lora_rank=self.rank)

    def wrap(
        self,
        optimizer: optax.GradientTransformation,
        phase: Phase,
        zeros: optax.Params,
    ) -> optax.GradientTransformation:
        """The optimizer of the adapters; it keeps nothing of the other weights."""
        del phase
        return optax.partition(
            {"adapters": optimizer, "frozen": optax.set_to_zero()}, _labels(zeros)
        )


def _labels(params: optax.Params) -> optax.Params:
    """Which weights are adapters, a tree of words like the weights."""

    def of_variable(variable: nnx.Variable[jax.Array]) -> nnx.Variable[jax.Array]:
        label = "adapters" if isinstance(variable, nnx.LoRAParam) else "frozen"
        labels: nnx.Variable[jax.Array] = jax.tree.map(lambda _: label, variable)
        return labels

    return jax.tree.map(
        of_variable, params, is_leaf=lambda node: isinstance(node, nnx.Variable)
    )
