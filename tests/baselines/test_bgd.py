"""BGD against a loop of the authors' arithmetic, a posterior, and its samples."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from classp_jax.baselines import BgdState, bgd, bgd_eval_params

CURVATURE = {"kernel": np.linspace(0, 2, 12).reshape(4, 3), "bias": np.ones(3)}
CENTRE = {"kernel": np.linspace(-1, 1, 12).reshape(4, 3), "bias": np.full(3, 0.5)}
START = jax.tree.map(np.ones_like, CENTRE)
STD, ETA, EXAMPLES = 0.3, 0.7, 3.0


def gradient(params):
    """Of the mean of the examples' losses, 1/2 sum of a (w - c)^2 each."""
    return jax.tree.map(lambda w, a, c: a * (w - c), params, CURVATURE, CENTRE)


def run(solver, steps, gradient=gradient, start=START):
    """The parameters before each step, and all states."""
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), start)
    samples, states = [params], [solver.init(params)]

    @jax.jit
    def step(params, opt_state):
        updates, opt_state = solver.update(gradient(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for _ in range(steps):
        params, opt_state = step(samples[-1], states[-1])
        samples.append(params)
        states.append(opt_state)
    return samples, states


def test_means_and_stds_are_those_of_a_loop_at_the_same_samples():
    solver = bgd(ETA, STD, batch_size=EXAMPLES)
    samples, states = run(solver, 10)
    for name, start in START.items():
        mean, std = start.astype(float), np.full(start.shape, STD)
        for sample, state in zip(samples, states, strict=True):
            np.testing.assert_allclose(state.mean[name], mean, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(state.std[name], std, rtol=1e-5)
            w = np.asarray(sample[name], float)
            eps = (w - mean) / std
            g = CURVATURE[name] * (w - CENTRE[name]) * EXAMPLES
            mean = mean - std**2 * g * ETA
            root = np.sqrt((g * eps * std / 2) ** 2 + 1) * std
            std = root - g * eps * std**2 / 2


def test_samples_are_normal_and_drawn_anew():
    like = {"a": jnp.ones(5000), "b": jnp.ones(5000)}
    samples, states = run(
        bgd(initial_std=STD, batch_size=1),
        2,
        lambda params: jax.tree.map(jnp.zeros_like, params),
        like,
    )
    chex.assert_trees_all_equal(states[0].mean, states[2].mean, samples[0])
    noise = [jax.tree.map(lambda w: (np.asarray(w) - 1) / STD, s) for s in samples[1:]]
    for x in (noise[0]["a"], noise[0]["b"], noise[1]["a"]):
        # Four standard errors of 5,000 numbers.
        assert abs(np.mean(x)) < 4 / np.sqrt(5000)
        assert abs(np.std(x) - 1) < 4 / np.sqrt(2 * 5000)
    for x, y in ((noise[0]["a"], noise[0]["b"]), (noise[0]["a"], noise[1]["a"])):
        assert abs(np.corrcoef(x, y)[0, 1]) < 4 / np.sqrt(5000)


def test_samples_are_those_of_the_key():
    of_key = [
        run(bgd(initial_std=STD, batch_size=1, key=key), 2)[0]
        for key in (3, 3, jax.random.key(3), 4)
    ]
    chex.assert_trees_all_equal(*of_key[:3])
    assert np.all(of_key[3][-1]["bias"] != of_key[0][-1]["bias"])


def test_a_quadratic_has_its_posterior():
    """Of n examples with curvature a the precision is 1 / std^2 + n a."""
    steps = 400
    solver = bgd(initial_std=0.1, batch_size=1)
    start = {"w": np.full(2000, 1.02)}
    _, states = run(
        solver, steps, lambda p: jax.tree.map(lambda w: 4 * (w - 1), p), start
    )
    expected = 1 / np.sqrt(1 / 0.1**2 + steps * 4)
    # A sample a step makes each weight's own random; the mean of 2,000 is not.
    np.testing.assert_allclose(np.mean(states[-1].std["w"]), expected, rtol=0.01)
    # (1.02 / 0.1^2 + steps * 4 * 1) / (1 / 0.1^2 + steps * 4)
    mean = 1 + 0.02 / (0.1**2 * (1 / 0.1**2 + steps * 4))
    np.testing.assert_allclose(np.mean(states[-1].mean["w"]), mean, atol=1e-3)


def test_a_free_weight_stays_as_unsure_as_it_was():
    _, states = run(bgd(ETA, STD, batch_size=EXAMPLES), 5)
    first = states[-1]
    assert CURVATURE["kernel"][0, 0] == 0
    assert first.std["kernel"][0, 0] == np.float32(STD)
    assert first.mean["kernel"][0, 0] == 1


def test_the_first_gradient_is_taken_at_the_mean_and_leaves_the_std():
    _, states = run(bgd(ETA, STD, batch_size=EXAMPLES), 2)
    chex.assert_trees_all_equal(states[0].std, states[1].std)
    assert np.all(states[2].std["bias"] != states[1].std["bias"])


def test_batch_size_makes_a_sum_of_a_mean():
    of_mean, _ = run(bgd(ETA, STD, batch_size=EXAMPLES), 4)
    of_sum, _ = run(
        bgd(ETA, STD, batch_size=1),
        4,
        lambda p: jax.tree.map(lambda g: EXAMPLES * g, gradient(p)),
    )
    chex.assert_trees_all_close(of_mean, of_sum, rtol=1e-5)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e12, 1e25])
def test_the_std_is_accurate_at_any_gradient(size):
    """sqrt(1 + a^2) - a has no digits left in float32 where a is large."""
    mean, w, std = 0.5, np.array([0.25, 0.75]), 1e-3
    state = BgdState(
        jnp.zeros([], jnp.int32),
        jax.random.key(0),
        jnp.full(2, mean),
        jnp.full(2, std),
    )
    _, after = bgd(0.0, batch_size=1).update(
        jnp.full(2, size, jnp.float32), state, jnp.asarray(w, jnp.float32)
    )
    a = size * (w.astype(np.longdouble) - mean) / 2
    expected = std * np.exp(-np.arcsinh(a))
    np.testing.assert_allclose(after.std, expected.astype(float), rtol=2e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e38])
def test_a_step_that_would_not_be_finite_is_left_out(bad):
    solver = bgd(1.0, 1.0, batch_size=100.0)
    params = jnp.array([1.0, 2.0])
    opt_state = solver.init(params)
    updates, after = solver.update(jnp.array([bad, 0.0]), opt_state, params)
    chex.assert_trees_all_equal(after.mean, opt_state.mean)
    chex.assert_trees_all_equal(after.std, opt_state.std)
    assert np.all(np.isfinite(updates)) and np.all(updates != 0)


class TestEvalParams:
    def test_they_are_the_means(self):
        samples, states = run(bgd(ETA, STD, batch_size=EXAMPLES), 3)
        actual = bgd_eval_params(states[-1], samples[-1])
        chex.assert_trees_all_equal(actual, states[-1].mean)
        assert np.all(actual["bias"] != samples[-1]["bias"])

    def test_they_have_the_parameters_dtypes(self):
        params = {"w": jnp.ones(3, jnp.bfloat16), "x": jnp.ones(2)}
        opt_state = bgd(batch_size=1).init(params)
        chex.assert_trees_all_equal_shapes_and_dtypes(
            bgd_eval_params(opt_state, params), params
        )

    def test_what_a_mask_leaves_out_stays(self):
        params = {"a": jnp.ones(2), "b": jnp.zeros(2)}
        solver = optax.chain(
            optax.masked(bgd(batch_size=1), {"a": True, "b": False}),
        )
        opt_state = solver.init(params)
        updates, opt_state = solver.update(params, opt_state, params)
        params = optax.apply_updates(params, updates)
        actual = bgd_eval_params(opt_state, params)
        np.testing.assert_allclose(actual["a"], 1 - 0.02**2, rtol=1e-6)
        np.testing.assert_array_equal(actual["b"], params["b"])

    def test_groups_have_their_own(self):
        params = {"a": jnp.ones(2), "b": jnp.ones(2)}
        solver = optax.partition(
            {"a": bgd(1.0, batch_size=1), "b": bgd(0.0, batch_size=1)},
            {"a": "a", "b": "b"},
        )
        updates, opt_state = solver.update(params, solver.init(params), params)
        params = optax.apply_updates(params, updates)
        actual = bgd_eval_params(opt_state, params)
        np.testing.assert_allclose(actual["a"], 1 - 0.02**2, rtol=1e-6)
        np.testing.assert_array_equal(actual["b"], 1)

    def test_nnx_optimizer(self):
        model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
        params = nnx.state(model, nnx.Param)
        optimizer = nnx.Optimizer(model, bgd(batch_size=1), wrt=nnx.Param)
        grads = jax.tree.map(jnp.ones_like, params)
        before = np.asarray(model.kernel[...])
        optimizer.update(model, grads)
        nnx.update(
            model, bgd_eval_params(optimizer.opt_state, nnx.state(model, nnx.Param))
        )
        np.testing.assert_allclose(model.kernel[...], before - 0.02**2, rtol=1e-5)

    def test_what_is_wrong_is_named(self):
        params = {"a": jnp.ones(2)}
        with pytest.raises(ValueError, match="no BgdState in this optimizer state"):
            bgd_eval_params(optax.sgd(0.1).init(params), params)
        opt_state = bgd(batch_size=1).init(params)
        with pytest.raises(ValueError, match="params"):
            bgd_eval_params(opt_state, {"a": jnp.ones(3)})
        with pytest.raises(ValueError, match="tensor of params"):
            bgd_eval_params(opt_state, {"b": jnp.ones(2)})


def test_accumulated_gradients_are_of_one_sample():
    """As the docstring says: no further samples, but a larger batch."""
    solver = bgd(ETA, STD, batch_size=2 * EXAMPLES)
    several = optax.MultiSteps(solver, 2).gradient_transformation()
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), START)
    opt_state = several.init(params)
    updates, opt_state = several.update(gradient(params), opt_state, params)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, params))
    updates, opt_state = several.update(gradient(params), opt_state, params)
    expected, _ = solver.update(gradient(params), solver.init(params), params)
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)
