"""UPGD against a loop of the authors' arithmetic, and its noise."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from classp_jax.baselines import upgd

SHAPES = {"kernel": (4, 3), "bias": (3,)}
RNG = np.random.default_rng(0)
START = {name: RNG.normal(size=shape) for name, shape in SHAPES.items()}
GRADS = [
    {name: RNG.normal(size=shape) for name, shape in SHAPES.items()} for _ in range(6)
]
RATE, BETA, DECAY = 0.1, 0.9, 0.05


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loop(correct_maximum):
    """The authors' step without noise, in float64: weights after each step."""
    weights = {name: w.copy() for name, w in START.items()}
    average = {name: np.zeros_like(w) for name, w in START.items()}
    after = []
    for t, grads in enumerate(GRADS, 1):
        correction = 1 - BETA**t
        for name, g in grads.items():
            average[name] *= BETA
            average[name] += (1 - BETA) * -g * weights[name]
        largest = max(u.max() for u in average.values())
        if correct_maximum:
            largest /= correction
        for name, g in grads.items():
            scaled = sigmoid(average[name] / correction / largest)
            weights[name] *= 1 - RATE * DECAY
            weights[name] -= RATE * g * (1 - scaled)
        after.append({name: w.copy() for name, w in weights.items()})
    return after


def run(solver, grads=GRADS, start=START):
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), start)
    opt_state, after = solver.init(params), []
    update = jax.jit(solver.update)
    for of_step in grads:
        of_step = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), of_step)
        updates, opt_state = update(of_step, opt_state, params)
        params = optax.apply_updates(params, updates)
        after.append(params)
    return after


@pytest.mark.parametrize("correct_maximum", [True, False])
def test_steps_without_noise_are_those_of_a_loop(correct_maximum):
    solver = upgd(RATE, BETA, 0.0, DECAY, correct_maximum=correct_maximum)
    for actual, expected in zip(run(solver), loop(correct_maximum), strict=True):
        chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_the_maxima_differ_by_the_bias_correction():
    """At the first step by 1 / (1 - beta), and by nothing many steps later."""
    params, grads = jnp.array([2.0, 1.0]), jnp.array([-1.0, -1.0])
    kept = []
    for correct in (True, False):
        solver = upgd(1.0, BETA, 0.0, 0.0, correct_maximum=correct)
        opt_state, of_steps = solver.init(params), []
        for _ in range(200):
            updates, opt_state = solver.update(grads, opt_state, params)
            of_steps.append(np.asarray(updates))
        kept.append(of_steps)
    quotients = np.array([1.0, 0.5])
    np.testing.assert_allclose(kept[0][0], 1 - sigmoid(quotients), rtol=1e-5)
    np.testing.assert_allclose(
        kept[1][0], 1 - sigmoid(quotients / (1 - BETA)), rtol=1e-4
    )
    np.testing.assert_allclose(kept[0][-1], kept[1][-1], rtol=1e-5)


def noise_of(key, step=0, sigma=0.5):
    """What a step adds to weights of 0, whose utility is 0, per half step and sigma."""
    solver = upgd(1.0, BETA, sigma, 0.0, key=key)
    params = {"a": jnp.zeros(5000), "b": jnp.zeros(5000)}
    opt_state = solver.init(params)
    for _ in range(step + 1):
        updates, opt_state = solver.update(params, opt_state, params)
    return jax.tree.map(lambda u: -2 * u / sigma, updates)


def test_noise_is_standard_normal_and_drawn_anew():
    first, second = noise_of(0), noise_of(0, step=1)
    for noise in (first["a"], first["b"], second["a"]):
        # Four standard errors of 5,000 numbers.
        assert abs(np.mean(noise)) < 4 / np.sqrt(5000)
        assert abs(np.std(noise) - 1) < 4 / np.sqrt(2 * 5000)
    for one, other in ((first["a"], first["b"]), (first["a"], second["a"])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(5000)


def test_noise_is_that_of_the_key():
    chex.assert_trees_all_equal(noise_of(3), noise_of(3), noise_of(jax.random.key(3)))
    assert np.all(noise_of(3)["a"] != noise_of(4)["a"])


def test_noise_is_scaled_as_the_gradient_is():
    """(g + sigma xi) (1 - s), from two runs that share the noise."""
    utility = {"w": jnp.array([1.0, 0.0, -1.0])}  # -g w
    params, grads = {"w": jnp.array([1.0, 2.0, 1.0])}, {"w": jnp.array([-1.0, 0, 1.0])}
    steps = []
    for sigma in (0.0, 0.3, 0.6):
        solver = upgd(1.0, 0.0, sigma, 0.0)
        steps.append(solver.update(grads, solver.init(params), params)[0]["w"])
    kept = 1 - sigmoid(np.asarray(utility["w"]))
    np.testing.assert_allclose(steps[0], -grads["w"] * kept, rtol=1e-6)
    noise = (steps[1] - steps[0]) / (-0.3 * kept)
    assert np.all(np.abs(noise) > 1e-3)
    np.testing.assert_allclose(steps[2], steps[0] - 0.6 * noise * kept, rtol=1e-5)


def scales(products):
    """Which share of SGD's step each weight makes, by its -g w."""
    params = jnp.asarray(products)
    solver = upgd(1.0, 0.0, 0.0, 0.0)
    grads = -jnp.ones_like(params)
    updates, _ = solver.update(grads, solver.init(params), params)
    return np.asarray(updates)


def test_the_most_useful_weight_of_all_tensors_is_the_measure():
    params = {"a": jnp.array([4.0, 2.0]), "b": jnp.array([1.0, -8.0])}
    solver = upgd(1.0, 0.0, 0.0, 0.0)
    grads = jax.tree.map(lambda p: -jnp.ones_like(p), params)
    updates, _ = solver.update(grads, solver.init(params), params)
    expected = jax.tree.map(lambda p: 1 - sigmoid(np.asarray(p) / 4), params)
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)


def test_without_a_useful_weight_the_quotient_turns_round():
    expected = 1 - sigmoid(np.array([1.0, 2.0, 4.0]))
    np.testing.assert_allclose(scales([-1.0, -2.0, -4.0]), expected, rtol=1e-6)


def test_where_no_weight_is_of_use_each_makes_half_a_step():
    np.testing.assert_array_equal(scales([0.0, 0.0]), 0.5)


def test_the_decay_also_shrinks_what_is_protected():
    params = jnp.array([2.0, -3.0])
    solver = upgd(0.1, BETA, 0.0, 0.5)
    updates, _ = solver.update(jnp.zeros(2), solver.init(params), params)
    np.testing.assert_allclose(updates, -0.1 * 0.5 * np.asarray(params), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_with_its_weight(bad):
    params, solver = jnp.array([1.0, 2.0, 3.0]), upgd(1.0, BETA, 0.0, 0.0)
    update = jax.jit(solver.update)
    grads = jnp.array([bad, -1.0, -1.0])
    updates, opt_state = update(grads, solver.init(params), params)
    expected, expected_state = update(grads.at[0].set(0.0), solver.init(params), params)
    assert not np.isfinite(updates[0])
    np.testing.assert_array_equal(updates[1:], expected[1:])
    chex.assert_trees_all_equal(opt_state, expected_state)


def test_a_product_that_overflows_adds_nothing():
    params, solver = jnp.array([1e30, 2.0]), upgd(1e-30, BETA, 0.0, 0.0)
    updates, opt_state = solver.update(
        jnp.array([-1e30, -1.0]), solver.init(params), params
    )
    chex.assert_tree_all_finite(updates)
    np.testing.assert_allclose(
        optax.tree.get(opt_state, "utility"), [0, (1 - BETA) * 2], rtol=1e-5
    )
