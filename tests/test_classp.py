"""What the readings are defined as, and how Optax reads their signatures."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import classp_jax
from classp_jax import baselines
from tests import helpers


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_classp_is_the_chain_that_its_docstring_shows_to_the_bit(power, relative):
    threshold, eps, learning_rate = 0.5, 1e-3, 0.1

    def apply_decay(step):
        return step >= 2

    chain = optax.chain(
        classp_jax.threshold_mask(threshold, relative=relative),
        classp_jax.decay_gate(
            classp_jax.scale_by_accumulated_power_norm(power, eps), apply_decay
        ),
        optax.scale_by_learning_rate(learning_rate),
    )
    whole = classp_jax.classp(
        learning_rate,
        threshold,
        power=power,
        eps=eps,
        apply_decay=apply_decay,
        relative=relative,
    )
    rng = np.random.default_rng(0)
    shapes = {"kernel": (5, 7), "bias": (7,), "scale": ()}
    states = [
        optimizer.init(jax.tree.map(jnp.zeros, shapes, is_leaf=is_shape))
        for optimizer in (chain, whole)
    ]
    updates = [jax.jit(optimizer.update) for optimizer in (chain, whole)]
    for _ in range(6):
        grads = {k: jnp.float32(rng.normal(size=s)) for k, s in shapes.items()}
        results = [f(grads, s) for f, s in zip(updates, states, strict=True)]
        states = [state for _, state in results]
        chex.assert_trees_all_equal(results[0][0], results[1][0])
        sums = [helpers.sum_of_each_weight(state) for state in states]
        chex.assert_trees_all_equal(*sums)
    assert np.any(results[0][0]["kernel"] == 0) and np.any(results[0][0]["kernel"])


BOUNDED = [
    (reading, factored)
    for reading in (classp_jax.classp, classp_jax.classp_equation1)
    for factored in (False, True)
]


def steps(optimizer, size=1.0):
    """The updates of four steps by ordinary gradients of some size."""
    rng = np.random.default_rng(1)
    opt_state, found = optimizer.init(jnp.zeros((4, 5))), []
    for _ in range(4):
        gradient = jnp.asarray(size * rng.normal(size=(4, 5)), jnp.zeros(()).dtype)
        updates, opt_state = optimizer.update(gradient, opt_state)
        found.append(updates)
    return found


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize(("reading", "factored"), BOUNDED)
def test_bounded_it_is_in_units_of_the_step_without_history(reading, factored, power):
    options = dict(power=power, factored=factored, eps=0.3)
    bounded = steps(reading(0.1, bounded=True, **options))
    plain = steps(reading(0.1 * 0.3 ** (1 / power), **options))
    chex.assert_trees_all_close(bounded, plain, rtol=2e-6)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e15])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("reading", "factored"), BOUNDED)
def test_bounded_no_step_is_longer_than_that_of_sgd(reading, factored, power, size):
    of_sgd = steps(optax.sgd(1.0), size)
    for eps in (1e-30, 1e-3, 1e30):
        options = dict(power=power, eps=eps, bounded=True, factored=factored)
        found = steps(reading(1.0, **options), size)
        for update, longest in zip(found, of_sgd, strict=True):
            assert np.all(np.abs(update) <= np.abs(longest) * (1 + 1e-6))
        if eps == 1e30 and size < 1e15:
            chex.assert_trees_all_close(found, of_sgd, rtol=1e-6)


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_bounded_it_has_the_derivative_by_eps(power):
    def last(eps):
        return steps(classp_jax.classp(0.1, power=power, eps=eps, bounded=True))[-1]

    with helpers.enable_x64(True):
        eps = jnp.float64(0.3)
        expected = (last(eps + 1e-6) - last(eps - 1e-6)) / 2e-6
        chex.assert_trees_all_close(jax.jacobian(last)(eps), expected, rtol=1e-5)


def is_shape(node):
    return isinstance(node, tuple)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (classp_jax.classp, ["learning_rate", "threshold", "eps"]),
        (classp_jax.classp_equation1, ["learning_rate", "threshold", "eps"]),
        (classp_jax.classp_released, ["learning_rate", "threshold", "eps"]),
        (classp_jax.classp_gram, ["learning_rate", "damping", "threshold"]),
        (baselines.bgd, ["learning_rate", "batch_size"]),
        (baselines.ewc_penalty, ["strength", "learning_rate"]),
        (baselines.mofo, ["learning_rate", "fraction", "eps", "weight_decay"]),
        (baselines.scale_by_mofo, ["fraction", "eps"]),
        (baselines.sc_adagrad, ["learning_rate", "xi1", "xi2"]),
        (baselines.scale_by_sc_adagrad, ["xi1", "xi2"]),
        (baselines.synaptic_intelligence, ["strength", "learning_rate"]),
        (baselines.upgd, ["learning_rate", "sigma", "weight_decay"]),
        (classp_jax.threshold_mask, ["threshold"]),
        (classp_jax.scale_by_accumulated_power_norm, ["eps"]),
        (classp_jax.scale_by_accumulated_gram, ["damping"]),
    ],
)
def test_annotations_say_what_may_be_a_schedule(make, names):
    """As Optax's own tests of its optimizers read them: as objects, not as text."""
    parameters = inspect.signature(make).parameters
    assert [
        name
        for name, parameter in parameters.items()
        if parameter.annotation == optax.ScalarOrSchedule
    ] == names
