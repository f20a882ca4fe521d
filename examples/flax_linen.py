"""CLASSP in Flax Linen, in a ``TrainState``: two tasks, and their boundary.

Run it with ``python -m examples.flax_linen``; it takes a few seconds.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState

from classp_jax import classp, set_hyperparameters

FEATURES, CLASSES, STEPS = 32, 10, 200
Task = tuple[jax.Array, jax.Array]


def make_tasks(key: jax.Array) -> tuple[Task, Task]:
    """Makes task A, ten classes of points, and task B, A with permuted features."""
    of_centres, of_labels, of_noise, of_order = jax.random.split(key, 4)
    centres = jax.random.normal(of_centres, (CLASSES, FEATURES))
    labels = jax.random.randint(of_labels, (2000,), 0, CLASSES)
    points = centres[labels] + jax.random.normal(of_noise, (2000, FEATURES))
    order = jax.random.permutation(of_order, FEATURES)
    return (points, labels), (points[:, order], labels)


class MLP(nn.Module):
    """A network with one hidden layer."""

    @nn.compact
    def __call__(self, points: jax.Array) -> jax.Array:
        """Computes logits."""
        return nn.Dense(CLASSES)(nn.relu(nn.Dense(32)(points)))


@jax.jit
def train_step(state: TrainState, points: jax.Array, labels: jax.Array) -> TrainState:
    """Takes one step on the mean cross-entropy."""

    def loss_fn(params: optax.Params) -> jax.Array:
        logits = state.apply_fn({"params": params}, points)
        losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(
            logits, labels
        )
        return losses.mean()

    after: TrainState = state.apply_gradients(grads=jax.grad(loss_fn)(state.params))
    return after


def train(state: TrainState, task: Task, key: jax.Array) -> TrainState:
    """Trains on random batches of one task."""
    points, labels = task
    for batch in jax.random.randint(key, (STEPS, 32), 0, len(labels)):
        state = train_step(state, points[batch], labels[batch])
    return state


def accuracy(state: TrainState, task: Task) -> float:
    """Computes the share of a task's points that the model classifies correctly."""
    points, labels = task
    logits = state.apply_fn({"params": state.params}, points)
    return float(jnp.mean(jnp.argmax(logits, -1) == labels))


def main() -> float:
    """Learns A, then B, and returns the accuracy that is left on A."""
    a, b = make_tasks(jax.random.key(0))
    model = MLP()
    # Injected hyperparameters can change during training; nothing is compiled again.
    gated = optax.inject_hyperparams(
        classp, static_args="power", hyperparam_dtype=jnp.float32
    )(learning_rate=0.1, apply_decay=0.0)
    params = model.init(jax.random.key(3), a[0][:1])["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=gated)

    state = train(state, a, jax.random.key(1))
    print(f"Accuracy on A after A: {accuracy(state, a):.0%}")
    # The task boundary: open the gate, so that weights that A needs move less.
    opt_state = set_hyperparameters(state.opt_state, apply_decay=1.0)
    state = train(state.replace(opt_state=opt_state), b, jax.random.key(2))
    print(f"After B: {accuracy(state, a):.0%} on A, {accuracy(state, b):.0%} on B")
    return accuracy(state, a)


if __name__ == "__main__":
    main()
