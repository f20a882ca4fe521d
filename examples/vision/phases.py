"""What the experiment's methods are made of: phases on MNIST, then on Fashion-MNIST."""

from typing import Any

from examples.runner.optimizers import Maker
from examples.runner.plan import Phase
from examples.runner.plugin import Plugin

TASKS = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
MNIST, FASHION = {"mnist": 4}, {"fashion_mnist": 1}


def sgd(*plugins: Plugin, learning_rate: float = 0.2) -> Phase:
    """SGD on the second task."""
    return Phase(FASHION, "sgd", dict(learning_rate=learning_rate), plugins)


def classp_on(
    data: dict[str, int], optimizer: str | Maker = "classp", **hyperparameters: Any
) -> Phase:
    """CLASSP, or another optimizer with its learning rate, on some task."""
    return Phase(data, optimizer, dict(learning_rate=0.2) | hyperparameters)


# Plain SGD that collects the sum: what every reading does without a threshold, and the
# released one with any below 1, but for rounding, as tests/examples/vision holds.
COLLECT = classp_on(MNIST, apply_decay=False)
ADAM = Phase(MNIST, "adam", dict(learning_rate=0.001))
ADAGRAD = Phase(MNIST, "adagrad", dict(learning_rate=0.05))
