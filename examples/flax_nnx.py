"""CLASSP in Flax NNX, in an ``nnx.Optimizer``: two tasks, and their boundary.

Run it with ``python -m examples.flax_nnx``; it takes a few seconds.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

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


class MLP(nnx.Module):
    """A network with one hidden layer."""

    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(FEATURES, 32, rngs=rngs)
        self.out = nnx.Linear(32, CLASSES, rngs=rngs)

    def __call__(self, points: jax.Array) -> jax.Array:
        """Computes logits."""
        return self.out(nnx.relu(self.hidden(points)))


def loss_fn(model: MLP, points: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes the mean cross-entropy."""
    logits = model(points)
    losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()


@nnx.jit
def train_step(
    model: MLP, optimizer: nnx.Optimizer[MLP], points: jax.Array, labels: jax.Array
) -> None:
    """Takes one step, which changes the model and the optimizer in place."""
    grads = nnx.grad(loss_fn)(model, points, labels)
    optimizer.update(model, grads)


def train(
    model: MLP, optimizer: nnx.Optimizer[MLP], task: Task, key: jax.Array
) -> None:
    """Trains on random batches of one task."""
    points, labels = task
    for batch in jax.random.randint(key, (STEPS, 32), 0, len(labels)):
        train_step(model, optimizer, points[batch], labels[batch])


def accuracy(model: MLP, task: Task) -> float:
    """Computes the share of a task's points that the model classifies correctly."""
    points, labels = task
    return float(jnp.mean(jnp.argmax(model(points), -1) == labels))


def main() -> float:
    """Learns A, then B, and returns the accuracy that is left on A."""
    a, b = make_tasks(jax.random.key(0))
    model = MLP(nnx.Rngs(0))
    # Injected hyperparameters can change during training; nothing is compiled again.
    gated = optax.inject_hyperparams(
        classp, static_args="power", hyperparam_dtype=jnp.float32
    )(learning_rate=0.1, apply_decay=0.0)
    optimizer = nnx.Optimizer(model, gated, wrt=nnx.Param)

    train(model, optimizer, a, jax.random.key(1))
    print(f"Accuracy on A after A: {accuracy(model, a):.0%}")
    # The task boundary: open the gate, so that weights that A needs move less.
    optimizer.opt_state = set_hyperparameters(optimizer.opt_state, apply_decay=1.0)
    train(model, optimizer, b, jax.random.key(2))
    print(f"After B: {accuracy(model, a):.0%} on A, {accuracy(model, b):.0%} on B")
    return accuracy(model, a)


if __name__ == "__main__":
    main()
