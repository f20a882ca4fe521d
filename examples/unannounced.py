"""A task changes unannounced, and CLASSP's gate opens because the loss jumps.

Run it with ``python -m examples.unannounced``; it needs only JAX and Optax, and takes a
few seconds.
"""

import jax
import jax.numpy as jnp
import optax

from classp_jax import classp, loss_jump

FEATURES, HIDDEN, CLASSES, CHANGE = 32, 32, 10, 500
Params = dict[str, jax.Array]
Training = tuple[Params, optax.OptState]
Stream = tuple[jax.Array, jax.Array]


def make_stream(key: jax.Array) -> Stream:
    """Makes batches of ten classes of points, with features permuted halfway."""
    of_centres, of_labels, of_noise, of_order = jax.random.split(key, 4)
    centres = jax.random.normal(of_centres, (CLASSES, FEATURES))
    labels = jax.random.randint(of_labels, (2 * CHANGE, 32), 0, CLASSES)
    noise = jax.random.normal(of_noise, (*labels.shape, FEATURES))
    points = centres[labels] + noise
    order = jax.random.permutation(of_order, FEATURES)
    return points.at[CHANGE:].set(points[CHANGE:][..., order]), labels


def logits_of(params: Params, points: jax.Array) -> jax.Array:
    """Computes the logits of a network with one hidden layer."""
    return jax.nn.relu(points @ params["hidden"]) @ params["out"]


def loss_fn(params: Params, points: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes the mean cross-entropy."""
    logits = logits_of(params, points)
    losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()


def train(stream: Stream, params: Params) -> tuple[Params, jax.Array]:
    """Trains on each batch once; also returns at which steps the gate was open."""
    # The gate is a hyperparameter, which a signal sets at every step.
    optimizer = optax.inject_hyperparams(classp, static_args="power")(
        learning_rate=0.1, apply_decay=loss_jump()
    )

    def step(so_far: Training, batch: Stream) -> tuple[Training, jax.Array]:
        params, opt_state = so_far
        loss, grads = jax.value_and_grad(loss_fn)(params, *batch)
        # The signal needs the loss.
        updates, opt_state = optimizer.update(grads, opt_state, params, value=loss)
        is_open = opt_state.hyperparams["apply_decay"]
        return (optax.apply_updates(params, updates), opt_state), is_open

    start = params, optimizer.init(params)
    (params, _), is_open = jax.jit(lambda s: jax.lax.scan(step, s, stream))(start)
    return params, is_open


def main() -> int:
    """Learns the stream, and returns the step at which the gate opened."""
    points, labels = make_stream(jax.random.key(0))
    first, second = jax.random.split(jax.random.key(1))
    params = {
        "hidden": jax.random.normal(first, (FEATURES, HIDDEN)) / FEATURES**0.5,
        "out": jax.random.normal(second, (HIDDEN, CLASSES)) / HIDDEN**0.5,
    }
    params, is_open = train((points, labels), params)
    opened = int(jnp.argmax(is_open))
    print(f"The task changed at step {CHANGE}, and the gate opened at step {opened}.")
    for name, part in {
        "before": slice(None, CHANGE),
        "since": slice(CHANGE, None),
    }.items():
        answers = jnp.argmax(logits_of(params, points[part]), -1)
        print(f"Accuracy on what came {name}: {jnp.mean(answers == labels[part]):.0%}")
    return opened


if __name__ == "__main__":
    main()
