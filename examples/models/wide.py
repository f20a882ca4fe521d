"""One wide hidden layer: as it is initialised, random features of the pixels."""

import functools

from examples.models.mlp import MLP
from examples.models.registry import Model


def of_units(hidden: int) -> Model:
    """The model with so many hidden units."""
    return Model(
        functools.partial(MLP, hidden=hidden, hidden_layers=1),
        f"a layer of {hidden} with ReLU",
        f", by {{inputs}}-{hidden}-{{outputs}}",
    )


MODEL = of_units(4000)
