"""CLASSP in Equinox: two tasks, and the boundary between them.

Run it with ``python -m examples.equinox_mlp``; it takes a few seconds.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

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


# Injected hyperparameters can change during training; nothing is compiled again.
OPTIMIZER = optax.inject_hyperparams(
    classp, static_args="power", hyperparam_dtype=jnp.float32
)(learning_rate=0.1, apply_decay=0.0)


def loss_fn(model: eqx.nn.MLP, points: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes the mean cross-entropy."""
    logits = jax.vmap(model)(points)
    losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()


@eqx.filter_jit
def train_step(
    model: eqx.nn.MLP, opt_state: optax.OptState, points: jax.Array, labels: jax.Array
) -> tuple[eqx.nn.MLP, optax.OptState]:
    """Takes one step."""
    grads = eqx.filter_grad(loss_fn)(model, points, labels)
    updates, opt_state = OPTIMIZER.update(grads, opt_state)
    return eqx.apply_updates(model, updates), opt_state


def train(
    model: eqx.nn.MLP, opt_state: optax.OptState, task: Task, key: jax.Array
) -> tuple[eqx.nn.MLP, optax.OptState]:
    """Trains on random batches of one task."""
    points, labels = task
    for batch in jax.random.randint(key, (STEPS, 32), 0, len(labels)):
        model, opt_state = train_step(model, opt_state, points[batch], labels[batch])
    return model, opt_state


def accuracy(model: eqx.nn.MLP, task: Task) -> float:
    """Computes the share of a task's points that the model classifies correctly."""
    points, labels = task
    return float(jnp.mean(jnp.argmax(jax.vmap(model)(points), -1) == labels))


def main() -> float:
    """Learns A, then B, and returns the accuracy that is left on A."""
    a, b = make_tasks(jax.random.key(0))
    model = eqx.nn.MLP(FEATURES, CLASSES, width_size=32, depth=1, key=jax.random.key(3))
    opt_state = OPTIMIZER.init(eqx.filter(model, eqx.is_inexact_array))

    model, opt_state = train(model, opt_state, a, jax.random.key(1))
    print(f"Accuracy on A after A: {accuracy(model, a):.0%}")
    # The task boundary: open the gate, so that weights that A needs move less.
    opt_state = set_hyperparameters(opt_state, apply_decay=1.0)
    model, _ = train(model, opt_state, b, jax.random.key(2))
    print(f"After B: {accuracy(model, a):.0%} on A, {accuracy(model, b):.0%} on B")
    return accuracy(model, a)


if __name__ == "__main__":
    main()
