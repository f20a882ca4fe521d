"""The optimizers that the demo compares, and their hyperparameters."""

from typing import Any

import optax

import classp_jax

# Each learning rate is the best of its neighbours: results/demo_sweep/demo.md.
METHODS: dict[str, dict[str, Any]] = {
    "sgd": dict(learning_rate=0.1),
    "adam": dict(learning_rate=0.0005),
    "adagrad": dict(learning_rate=0.05),
    "classp": dict(learning_rate=0.05, threshold=0.0, power=1.0, eps=1e-5),
}

TITLES = {"sgd": "SGD", "adam": "Adam", "adagrad": "AdaGrad", "classp": "CLASSP"}


def make_optimizer(
    method: str, hyperparameters: dict[str, Any], task_b_start: int
) -> optax.GradientTransformation:
    """Builds a method's optimizer.

    Args:
      method: a key of :data:`METHODS`.
      hyperparameters: what to pass to the method's constructor.
      task_b_start: the step at which task B begins, and CLASSP's decay with it.

    Returns:
      An Optax transformation.
    """
    if method == "classp":
        return classp_jax.classp(
            **hyperparameters, apply_decay=lambda step: step >= task_b_start
        )
    return getattr(optax, method)(**hyperparameters)
