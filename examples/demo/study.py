"""The optimizers that the demo compares, and their hyperparameters."""

from typing import Any, NamedTuple

from examples.methods import classp, plain
from examples.runner.plan import Family, Method, Phase


class Compared(NamedTuple):
    """An optimizer, by its name.

    Attributes:
      family: whose title and colour it has.
      hyperparameters: unless the command line has others.
    """

    family: Family
    hyperparameters: dict[str, Any]


# Each learning rate is the best of its neighbours: results/demo/sweep/demo.md.
METHODS = {
    "sgd": Compared(plain.SGD, dict(learning_rate=0.1)),
    "adam": Compared(plain.ADAM, dict(learning_rate=0.0005)),
    "adagrad": Compared(plain.ADAGRAD, dict(learning_rate=0.05)),
    "classp": Compared(
        classp.FAMILY, dict(learning_rate=0.05, threshold=0.0, power=1.0, eps=1e-5)
    ),
}


def method(
    name: str, hyperparameters: dict[str, Any], tasks: list[str], epochs: list[int]
) -> Method:
    """What an optimizer does on the two tasks.

    Args:
      name: a key of :data:`METHODS`.
      hyperparameters: what to pass to the optimizer's constructor.
      tasks: the names of both.
      epochs: on each.

    Returns:
      The method; CLASSP collects on the first task alone, and its decay begins with the
      second.
    """
    family = METHODS[name].family
    closed = {"apply_decay": False} if family is classp.FAMILY else {}
    first, second = (
        Phase({task: count}, name, hyperparameters)
        for task, count in zip(tasks, epochs, strict=True)
    )
    first = Phase(first.epochs, name, hyperparameters | closed)
    return Method(family.title, (first, second), family=family)
