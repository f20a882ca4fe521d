"""Two tasks, one after the other, with SGD and with CLASSP.

``python -m examples.two_tasks`` takes a few seconds and needs only JAX and Optax.
"""

import jax
import jax.numpy as jnp
import optax

from classp_jax import classp

FEATURES, HIDDEN, CLASSES, STEPS = 32, 32, 10, 500
Task = tuple[jax.Array, jax.Array]
Params = dict[str, jax.Array]
Training = tuple[Params, optax.OptState]


def make_tasks(key: jax.Array) -> tuple[Task, Task]:
    """Makes task A, ten classes of points, and task B, A with permuted features."""
    of_centres, of_labels, of_noise, of_order = jax.random.split(key, 4)
    centres = jax.random.normal(of_centres, (CLASSES, FEATURES))
    labels = jax.random.randint(of_labels, (2000,), 0, CLASSES)
    points = centres[labels] + jax.random.normal(of_noise, (2000, FEATURES))
    order = jax.random.permutation(of_order, FEATURES)
    return (points, labels), (points[:, order], labels)


def init(key: jax.Array) -> Params:
    """Initialises a network with one hidden layer."""
    first, second = jax.random.split(key)
    return {
        "hidden": jax.random.normal(first, (FEATURES, HIDDEN)) / FEATURES**0.5,
        "out": jax.random.normal(second, (HIDDEN, CLASSES)) / HIDDEN**0.5,
    }


def logits_of(params: Params, points: jax.Array) -> jax.Array:
    """Computes the network's logits."""
    return jax.nn.relu(points @ params["hidden"]) @ params["out"]


def loss_fn(params: Params, points: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes the mean cross-entropy."""
    logits = logits_of(params, points)
    losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()


def train(
    optimizer: optax.GradientTransformation,
    params: Params,
    opt_state: optax.OptState,
    task: Task,
    key: jax.Array,
) -> Training:
    """Trains on random batches of one task."""
    points, labels = task
    batches = jax.random.randint(key, (STEPS, 32), 0, len(labels))

    def step(so_far: Training, batch: jax.Array) -> tuple[Training, None]:
        params, opt_state = so_far
        grads = jax.grad(loss_fn)(params, points[batch], labels[batch])
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    scan = jax.jit(lambda so_far: jax.lax.scan(step, so_far, batches)[0])
    trained: Training = scan((params, opt_state))
    return trained


def accuracy(params: Params, task: Task) -> float:
    """Computes the share of a task's points that the model classifies correctly."""
    points, labels = task
    return float(jnp.mean(jnp.argmax(logits_of(params, points), -1) == labels))


def main() -> dict[str, float]:
    """Learns A, then B, with SGD and with CLASSP; returns the accuracies left on A."""
    a, b = make_tasks(jax.random.key(0))
    optimizers = {
        "SGD": (optax.sgd(0.1), optax.sgd(0.1)),
        # With the decay off, CLASSP is SGD that sums up |g| per weight. After the task
        # boundary it divides each weight's step by that sum. The state is kept.
        "CLASSP": (classp(0.1, apply_decay=False), classp(0.1)),
    }
    kept = {}
    for name, (before, after) in optimizers.items():
        params = init(jax.random.key(1))
        opt_state = before.init(params)
        params, opt_state = train(before, params, opt_state, a, jax.random.key(2))
        print(f"{name}: {accuracy(params, a):.0%} on A after A,", end=" ")
        params, _ = train(after, params, opt_state, b, jax.random.key(3))
        kept[name] = accuracy(params, a)
        print(f"{kept[name]:.0%} after B, with {accuracy(params, b):.0%} on B")
    return kept


if __name__ == "__main__":
    main()
