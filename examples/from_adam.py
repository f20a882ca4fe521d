"""A model that Adam has trained learns a second task, and keeps more of the first.

``python -m examples.from_adam`` takes seconds and needs only JAX and Optax. What is
left of the first task is the weights and, for CLASSP, Adam's state, or else data.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from classp_jax import classp, classp_gram, collect, interop, tensor_report

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


def logits_of(params: Params, points: jax.Array) -> jax.Array:
    """Computes the logits of a network with one hidden layer."""
    return jax.nn.relu(points @ params["hidden"]) @ params["out"]


def loss_fn(params: Params, batch: Task) -> jax.Array:
    """Computes the mean cross-entropy."""
    logits, labels = logits_of(params, batch[0]), batch[1]
    losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()


def train(optimizer: Any, params: Params, state: Any, task: Task, key: Any) -> Training:
    """Trains on random batches of one task."""
    batches = jax.random.randint(key, (STEPS, 32), 0, len(task[1]))

    def step(so_far: Training, batch: jax.Array) -> tuple[Training, None]:
        params, opt_state = so_far
        grads = jax.grad(loss_fn)(params, (task[0][batch], task[1][batch]))
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    scan = jax.jit(lambda so_far: jax.lax.scan(step, so_far, batches)[0])
    trained: Training = scan((params, state))
    return trained


def accuracy(params: Params, task: Task) -> float:
    """Computes the share of a task's points that the model classifies correctly."""
    return float(jnp.mean(jnp.argmax(logits_of(params, task[0]), -1) == task[1]))


def main() -> dict[str, float]:
    """Learns A with Adam, then B; returns each optimizer's mean accuracy on both."""
    a, b = make_tasks(jax.random.key(0))
    first, second = jax.random.split(jax.random.key(1))
    params: Params = {
        "hidden": jax.random.normal(first, (FEATURES, HIDDEN)) / FEATURES**0.5,
        "out": jax.random.normal(second, (HIDDEN, CLASSES)) / HIDDEN**0.5,
    }
    adam = optax.adam(0.003)
    params, adam_state = train(adam, params, adam.init(params), a, jax.random.key(2))

    # Estimates the gradient sum, Σ|g|, from Adam's second moment.
    optimizer = classp(0.15)
    grad_sum = interop.estimate_grad_sum(adam_state, params)
    opt_state = interop.with_grad_sum(optimizer.init(params), grad_sum)

    gram = classp_gram(0.2)
    examples = zip(a[0][:, None], a[1][:, None], strict=True)  # Batches of one.
    collected = collect(gram, loss_fn, gram.init(params), params, examples)
    # Each has the learning rate that was best on other seeds.
    adam, no_sums, mean = optax.adam(0.0005), classp(0.03), {}
    for name, then, state in (
        ("Adam", adam, adam.init(params)),
        ("CLASSP without sums", no_sums, no_sums.init(params)),
        ("classp_gram, sums from A's data", gram, collected),
        ("CLASSP", optimizer, opt_state),
    ):
        new, state = train(then, params, state, b, jax.random.key(3))
        mean[name] = (accuracy(new, a) + accuracy(new, b)) / 2
        print(f"{name}: {accuracy(new, a):.0%} on A, {accuracy(new, b):.0%} on B")
    for path, row in tensor_report(opt_state, state, learning_rate=0.15).items():
        print(f"{path}: sum {row.grad_sum:.1f}, moved {row.largest_bound:.2f} at most")
    return mean


if __name__ == "__main__":
    main()
