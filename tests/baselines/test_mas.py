"""The importances of MAS against closed forms, loops and devices."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from classp_jax import baselines
from tests import helpers
from tests.baselines.test_fisher import CUT, make_mesh

RNG = np.random.default_rng(5)
INPUTS = np.float32(RNG.normal(size=(11, 3)))
NETWORK = {
    "hidden": jnp.asarray(RNG.normal(size=(3, 5)), jnp.float32),
    "out": jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32),
}


def output(params, x):
    return jnp.tanh(x @ params["hidden"]) @ params["out"]


def gradients_of_squared_norms(params, inputs):
    """Of each example, by the chain rule, in float64."""
    hidden, out = (np.asarray(params[k], np.float64) for k in ("hidden", "out"))
    for x in np.asarray(inputs, np.float64):
        h = np.tanh(x @ hidden)
        f = h @ out
        by_hidden = np.outer(x, (out @ (2 * f)) * (1 - h**2))
        yield {"hidden": by_hidden, "out": np.outer(h, 2 * f)}


def as_in_the_authors_code(params, inputs, batch_size):
    """A running mean of the magnitudes of each batch's summed gradient."""
    grads = list(gradients_of_squared_norms(params, inputs))
    omega = jax.tree.map(np.zeros_like, grads[0])
    for index in range(len(grads) // batch_size):
        batch = grads[index * batch_size : (index + 1) * batch_size]
        summed = jax.tree.map(lambda *g: sum(g), *batch)
        before, now = index * batch_size, (index + 1) * batch_size
        omega = jax.tree.map(
            lambda o, g, before=before, now=now: (o * before + abs(g)) / now,
            omega,
            summed,
        )
    return omega


@pytest.mark.parametrize("batch_size", [1, 4, 11, 32])
def test_importance_is_that_of_a_loop_over_examples(batch_size):
    actual = baselines.mas_importance(output, NETWORK, INPUTS, batch_size=batch_size)
    grads = gradients_of_squared_norms(NETWORK, INPUTS)
    expected = jax.tree.map(lambda *g: sum(map(abs, g)) / len(g), *grads)
    chex.assert_trees_all_close(jax.device_get(actual), expected, rtol=1e-5)


def test_the_authors_code_does_the_same_with_batches_of_one_and_less_with_larger():
    inputs = INPUTS[:8]
    actual = jax.device_get(baselines.mas_importance(output, NETWORK, inputs))
    of_ones, of_fours = (
        as_in_the_authors_code(NETWORK, inputs, size) for size in (1, 4)
    )
    chex.assert_trees_all_close(actual, of_ones, rtol=1e-5)
    for name, ours in of_ones.items():
        grads = [g[name] for g in gradients_of_squared_norms(NETWORK, inputs)]
        signs = np.sign(grads).reshape(2, 4, *ours.shape)
        differ = np.any(np.abs(signs.sum(1)) < 4, axis=0)
        assert 0 < np.mean(differ) < 1
        lower = of_fours[name] < ours * (1 - 1e-9)
        np.testing.assert_array_equal(lower, differ)


def test_importance_of_a_linear_model_is_the_closed_form():
    params = {"kernel": NETWORK["hidden"], "bias": jnp.arange(5.0) - 2}
    actual = baselines.mas_importance(
        lambda params, x: x @ params["kernel"] + params["bias"], params, INPUTS
    )
    f = INPUTS @ params["kernel"] + params["bias"]
    expected = {
        "kernel": jnp.mean(jnp.abs(2 * INPUTS[:, :, None] * f[:, None]), axis=0),
        "bias": jnp.mean(jnp.abs(2 * f), axis=0),
    }
    chex.assert_trees_all_close(actual, expected, rtol=1e-5)


def test_outputs_may_be_of_any_shape_and_in_several_parts():
    expected = baselines.mas_importance(output, NETWORK, INPUTS)

    def in_parts(params, example):
        f = output(params, example["x"])
        return {"scalar": f[0], "rest": [f[1:3].reshape(2, 1), f[3:]], "none": None}

    actual = baselines.mas_importance(in_parts, NETWORK, {"x": INPUTS})
    chex.assert_trees_all_close(actual, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("of_params", "of_examples", "batch_size"),
    [((), ("x",), 8), (("x", "m"), (("x", "m"),), 5)],
)
@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("jit", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_importance_of_what_is_cut_is_that_of_the_whole(
    jit, explicit, of_params, of_examples, batch_size
):
    if explicit and not hasattr(jax.sharding, "auto_axes"):
        pytest.skip("This JAX has no explicit axes.")
    params = {"w": np.float32(np.linspace(-1, 1, 32).reshape(8, 4))}
    importance = jit(
        functools.partial(
            baselines.mas_importance,
            lambda params, x: jnp.tanh(x @ params["w"]),
            batch_size=batch_size,
        )
    )
    mesh = make_mesh({"x": 4, "m": 2}, explicit)
    placed, examples = (
        jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
        for x, spec in ((params, of_params), (CUT, of_examples))
    )
    actual = importance(placed, examples)
    chex.assert_trees_all_close(
        jax.device_get(actual), importance(params, CUT), rtol=2e-5
    )
    if explicit or jit is not jax.jit:
        assert actual["w"].sharding.is_equivalent_to(placed["w"].sharding, 2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_importance_accumulates_in_at_least_float32(dtype):
    with helpers.enable_x64(dtype == jnp.float64):
        importance = baselines.mas_importance(
            lambda w, x: w * x, jnp.ones((), dtype), jnp.ones(1000, dtype), batch_size=1
        )
        wide = jnp.float64 if dtype == jnp.float64 else jnp.float32
        assert importance.dtype == wide
        assert importance == 2  # A bfloat16 sum would stop at 512.


@pytest.mark.parametrize(
    ("output_fn", "params", "error", "message"),
    [
        (None, jnp.ones(2), TypeError, "output_fn must be a function"),
        (lambda w, x: jnp.argmax(w * x), jnp.ones(2), TypeError, "Every output must"),
        (lambda w, x: w * x * 1j, jnp.ones(2), TypeError, "Every output must"),
        (lambda w, x: w * x, jnp.arange(2), TypeError, "Every parameter must"),
        (lambda w, x: abs(w * x), jnp.ones(2, jnp.complex64), ValueError, "complex"),
    ],
    ids=["no function", "classes", "complex outputs", "integers", "complex"],
)
def test_what_has_no_importance_is_refused(output_fn, params, error, message):
    with pytest.raises(error, match=message):
        baselines.mas_importance(output_fn, params, jnp.ones((3, 2)))


def test_without_examples_there_is_no_importance():
    with pytest.raises(ValueError, match="at least one example"):
        baselines.mas_importance(output, NETWORK, INPUTS[:0])


def test_the_papers_penalty_is_ewcs_of_twice_its_strength():
    importance = baselines.mas_importance(output, NETWORK, INPUTS)
    params = jax.tree.map(lambda w: 1.5 * w + 0.1, NETWORK)
    zeros = jax.tree.map(jnp.zeros_like, NETWORK)
    penalty = baselines.ewc_penalty(importance, NETWORK, 2 * 0.7, learning_rate=0.0)
    actual, _ = penalty.update(zeros, penalty.init(params), params)

    def of_the_paper(params):
        terms = jax.tree.map(
            lambda o, w, w_star: jnp.sum(o * (w - w_star) ** 2),
            importance,
            params,
            NETWORK,
        )
        return 0.7 * sum(jax.tree.leaves(terms))

    chex.assert_trees_all_close(actual, jax.grad(of_the_paper)(params), rtol=1e-5)


def test_importance_and_penalty_keep_the_outputs_of_the_first_task():
    """The whole way, without a label of the first task."""
    targets = np.float32(RNG.normal(size=(11, 4)))
    importance = baselines.mas_importance(output, NETWORK, INPUTS)

    def change_of_outputs(strength):
        optimizer = optax.chain(
            baselines.ewc_penalty(importance, NETWORK, strength, 0.1), optax.sgd(0.1)
        )

        @jax.jit
        def run(params):
            def loss(params):
                return jnp.mean((output(params, -INPUTS[:, ::-1]) - targets) ** 2)

            def step(_, carry):
                params, opt_state = carry
                updates, opt_state = optimizer.update(
                    jax.grad(loss)(params), opt_state, params
                )
                return optax.apply_updates(params, updates), opt_state

            carry = params, optimizer.init(params)
            return jax.lax.fori_loop(0, 100, step, carry)[0]

        new = run(NETWORK)
        return float(jnp.mean((output(new, INPUTS) - output(NETWORK, INPUTS)) ** 2))

    changes = [change_of_outputs(strength) for strength in (0.0, 0.1, 1.0, 100.0)]
    assert changes == sorted(changes, reverse=True)
    assert changes[-1] < 1e-3 * changes[0]
