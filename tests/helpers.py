"""What several test files share: readings, runs, distances, a network, a server."""

import contextlib
import functools
import http.server
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from classp_jax import _states, _sums
from classp_jax.verify._readings import OF_THE_PAPER
from tests.reference.optimizer import Classp

READINGS = {name: reading.make for name, reading in OF_THE_PAPER.items()}
FACTORED = {
    f"{reading}, factored": functools.partial(READINGS[reading], factored=True)
    for reading in ("algorithm1", "equation1")
}


def sum_of_each_weight(opt_state):
    """What a state's accumulator says of each weight, a tree like the parameters."""
    (state,) = _states.accumulators(opt_state)
    return jax.tree.map(
        _sums.of_each_weight,
        _states.sums_of(state),
        is_leaf=_sums.is_factored,
    )


def jax_trajectory(reading, **static):
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
                apply_decay=is_open, **static, **hyperparameters
            )
            updates, opt_state = optimizer.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
            return (params, opt_state), (params, sum_of_each_weight(opt_state))

        opt_state = READINGS[reading](0.1, **static).init(params)
        return jax.lax.scan(step, (params, opt_state), (gradients, apply_decay))[1]

    return lambda *arguments: jax.device_get(run(*arguments))


def torch_trajectory(
    reading, hyperparameters, params, gradients, apply_decay, **static
):
    """What :func:`jax_trajectory` returns, by the PyTorch reference."""
    weights = {k: torch.tensor(p, requires_grad=True) for k, p in params.items()}
    optimizer = Classp(
        weights.values(),
        lr=hyperparameters["learning_rate"],
        threshold=hyperparameters["threshold"],
        eps=hyperparameters["eps"],
        reading=reading,
        **static,
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


def enable_x64(enabled):
    """``jax.enable_x64``, which JAX had elsewhere at the lowest version allowed."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(enabled)
    from jax.experimental import enable_x64

    return enable_x64(enabled)


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


class Network(nnx.Module):
    """What the examples train, but compiled in no time: (batch, 6) to 3 classes."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(6, 8, rngs=rngs)
        self.dropout = nnx.Dropout(0.2)
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x, *, dropout_rngs=None):
        x = nnx.relu(self.hidden(x))
        x = self.dropout(x, deterministic=dropout_rngs is None, rngs=dropout_rngs)
        return self.out(x)


@contextlib.contextmanager
def serving(folder):
    """Serves the files of a folder; gives the URL."""
    handler = functools.partial(_QuietHandler, directory=folder)
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass
