"""A run that began in PyTorch continues in JAX, with its weights and gradient sums.

``python -m examples.from_pytorch`` runs it, with PyTorch (``pip install ".[verify]"``).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from classp_jax import average_grad_sum, classp, interop
from classp_jax.verify.reference import Classp  # Or the class that you use.

FEATURES, HIDDEN, CLASSES, STEPS = 16, 32, 4, 200
Params = dict[str, dict[str, jax.Array]]
Training = tuple[Params, optax.OptState]


def make_data(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes four classes of points."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, FEATURES))
    labels = rng.integers(0, CLASSES, 1000)
    points = centres[labels] + rng.normal(size=(1000, FEATURES))
    return points.astype(np.float32), labels


def begin_in_torch(
    points: np.ndarray, labels: np.ndarray
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Learns a first task with the gate closed, while the gradient sum grows."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 4)
    )
    optimizer = Classp(model.parameters(), lr=0.1, threshold=0.0)
    optimizer.param_groups[0]["apply_decay"] = False
    rng = np.random.default_rng(1)
    for _ in range(STEPS):
        batch = rng.integers(0, len(labels), 32)
        optimizer.zero_grad()
        logits = model(torch.tensor(points[batch]))
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels[batch]))
        loss.backward()
        optimizer.step()
    return model, optimizer


def logits_of(params: Params, points: jax.typing.ArrayLike) -> jax.Array:
    """Computes the logits of the same network in JAX."""
    hidden = points @ params["hidden"]["kernel"] + params["hidden"]["bias"]
    return jax.nn.relu(hidden) @ params["out"]["kernel"] + params["out"]["bias"]


def main() -> float:
    """Continues with a second task; returns the accuracy that is left on the first."""
    points, labels = make_data(0)
    model, torch_optimizer = begin_in_torch(points, labels)

    # Maps each JAX array to a PyTorch tensor; kernels are transposed on the way.
    layout = interop.kernel_and_bias("hidden", "0") | interop.kernel_and_bias(
        "out", "2"
    )
    params = {
        "hidden": {"kernel": jnp.zeros((FEATURES, HIDDEN)), "bias": jnp.zeros(HIDDEN)},
        "out": {"kernel": jnp.zeros((HIDDEN, CLASSES)), "bias": jnp.zeros(CLASSES)},
    }
    weights = model.state_dict()
    params = interop.params_from_torch(weights, layout, params)
    optimizer = classp(0.1)
    opt_state = interop.grad_sum_from_torch(
        torch_optimizer.state_dict(), list(weights), layout, optimizer.init(params)
    )
    print(f"Collected in PyTorch, on average: {average_grad_sum(opt_state):.3g}")

    others, their_labels = map(jnp.asarray, make_data(1))

    def step(so_far: Training, batch: jax.Array) -> tuple[Training, None]:
        def loss_fn(params: Params) -> jax.Array:
            logits, answers = logits_of(params, others[batch]), their_labels[batch]
            losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(
                logits, answers
            )
            return losses.mean()

        params, opt_state = so_far
        updates, opt_state = optimizer.update(jax.grad(loss_fn)(params), opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    batches = jax.random.randint(jax.random.key(0), (STEPS, 32), 0, len(labels))
    (params, _), _ = jax.lax.scan(step, (params, opt_state), batches)
    kept = float(jnp.mean(jnp.argmax(logits_of(params, points), -1) == labels))
    print(f"Accuracy on PyTorch's task after another one in JAX: {kept:.0%}")
    return kept


if __name__ == "__main__":
    main()
