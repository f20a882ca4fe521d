"""What several test files share: the readings, gradient streams, runs, distances."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import classp_jax
from tests.reference.optimizer import Classp

READINGS = {
    "algorithm1": classp_jax.classp,
    "equation1": classp_jax.classp_equation1,
    "released": classp_jax.classp_released,
}

SHAPES = {"ordinary": (6, 7), "edge": (4, 3, 5), "wide": (61,), "scalar": ()}


def random_params(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {k: np.asarray(1 + rng.normal(size=s) / 4, dtype) for k, s in SHAPES.items()}


def gradient_stream(seed, steps, threshold, dtype):
    """Gradients of ``steps`` steps, stacked: a dictionary of (steps, *shape).

    "edge" mixes exact zeros, denormals, the threshold's root and its neighbours to
    the bit, and values on both sides of it; "wide" spans 1e-20 to 1e+10. The gradients
    of "scalar" share a sign: its root mean square is its own value, so a weight that
    crosses zero would have no scale to compare with.
    """
    rng = np.random.default_rng(seed)
    root = np.sqrt(dtype(threshold))
    edges = np.array(
        [
            0.0,
            root,
            np.nextafter(root, dtype(0), dtype=dtype),
            np.nextafter(root, dtype(1), dtype=dtype),
            2 * root,
            root / 2,
            np.finfo(dtype).smallest_subnormal,
            np.finfo(dtype).tiny / 3,
            np.finfo(dtype).tiny,
            1e-3,
            0.3,
            1.0,
        ],
        dtype,
    )

    def stream(kind, shape):
        size = (steps, *shape)
        if kind == "edge":
            return rng.choice(edges, size) * rng.choice(np.array([-1, 1], dtype), size)
        if kind == "wide":
            return rng.choice([-1, 1], size) * 10 ** rng.uniform(-20, 10, size)
        normal = 0.5 * rng.normal(size=size)
        return -np.abs(normal) if kind == "scalar" else normal

    return {k: np.asarray(stream(k, s), dtype) for k, s in SHAPES.items()}


def jax_trajectory(reading, power):
    """A compiled function that runs a reading over a stream of gradients.

    It takes (hyperparameters, params, gradients, apply_decay), the last two stacked
    over steps, and returns parameters and sums after every step.
    """

    @jax.jit
    def run(hyperparameters, params, gradients, apply_decay):
        def step(carry, inputs):
            params, opt_state = carry
            grads, is_open = inputs
            optimizer = READINGS[reading](
                power=power, apply_decay=is_open, **hyperparameters
            )
            updates, opt_state = optimizer.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
            grad_sum = optax.tree.get(opt_state, "grad_sum")
            return (params, opt_state), (params, grad_sum)

        opt_state = READINGS[reading](0.1).init(params)
        return jax.lax.scan(step, (params, opt_state), (gradients, apply_decay))[1]

    return lambda *arguments: jax.device_get(run(*arguments))


def torch_trajectory(reading, power, hyperparameters, params, gradients, apply_decay):
    """What :func:`jax_trajectory` returns, by the PyTorch reference."""
    weights = {k: torch.tensor(p, requires_grad=True) for k, p in params.items()}
    optimizer = Classp(
        weights.values(),
        lr=hyperparameters["learning_rate"],
        threshold=hyperparameters["threshold"],
        eps=hyperparameters["eps"],
        power=power,
        reading=reading,
    )
    steps = len(apply_decay)
    out_params = {k: np.empty((steps, *p.shape), p.dtype) for k, p in params.items()}
    out_sums = {k: np.zeros((steps, *p.shape), p.dtype) for k, p in params.items()}
    for t in range(steps):
        for k, w in weights.items():
            w.grad = torch.tensor(gradients[k][t])
        optimizer.param_groups[0]["apply_decay"] = bool(apply_decay[t])
        optimizer.step()
        for k, w in weights.items():
            out_params[k][t] = w.detach().numpy()
            out_sums[k][t] = optimizer.state[w]["grad_sum"].numpy()
    return out_params, out_sums


def relative_error(actual, expected):
    """Largest error of a (steps, *shape) trajectory.

    Relative to the larger of the value and its tensor's root mean square at that step.
    """
    actual, expected = (np.asarray(x, np.longdouble) for x in (actual, expected))
    axes = tuple(range(1, expected.ndim))
    rms = np.sqrt(np.mean(expected**2, axis=axes, keepdims=True))
    scale = np.maximum(np.abs(expected), rms)
    error = np.abs(actual - expected)
    return float(np.max(np.divide(error, scale, where=error > 0, out=0 * error)))


def ulp_distance(actual, expected, at=None):
    """Largest difference in units in the last place, by default of ``expected``."""
    at = np.abs(expected) if at is None else at
    difference = np.asarray(actual, np.float64) - np.asarray(expected, np.float64)
    return float(np.max(np.abs(difference) / np.spacing(at)))


def tree_of_everything(dtype=jnp.float32):
    """A pytree with each kind of node and leaf that users have."""
    return {
        "nested": {"kernel": jnp.ones((2, 3), dtype)},
        "tuple": (jnp.full((4,), 2, dtype), [jnp.array(3, dtype)]),
        "none": None,
        "masked": optax.MaskedNode(),
        "empty": jnp.zeros((0, 5), dtype),
    }
