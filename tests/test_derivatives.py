"""Derivatives through the optimizers, against finite differences in float64."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import classp_jax
from tests import helpers

# Of ordinary gradients and of those that are left out, or that squares lose.
GRADIENTS = np.array(
    [
        [0.3, -0.7, 0.0, np.nan, np.inf, 5e-310, -1e-200, 2.0],
        [0.0, 0.4, 0.0, 0.5, -0.2, 0.1, 0.3, -np.inf],
        [-0.5, 0.2, 0.0, 0.3, 0.6, -0.4, np.nan, 1.5],
    ]
)
NUMBERS = dict(learning_rate=0.1, eps=1e-3, power=1.0)
READINGS = [classp_jax.classp, classp_jax.classp_equation1]


@pytest.fixture(autouse=True)
def with_float64():
    with helpers.enable_x64(True):
        yield


def weights(make, numbers, gradients=GRADIENTS):
    """The weights after a step for each row of gradients."""
    optimizer = make(**numbers)
    params = jnp.linspace(-1, 1, gradients.shape[-1]).reshape(2, -1)
    opt_state = optimizer.init(params)
    for gradient in gradients:
        gradient = jnp.asarray(gradient).reshape(params.shape)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
    return params


def with_derivatives(function):
    """A function of numbers and its derivatives by each, compiled as one program.

    Forwards they are those of every weight, backwards those of the sums of weights.
    """

    def sums(numbers):
        return jax.tree.map(jnp.sum, function(numbers))

    @jax.jit
    def run(numbers):
        return (
            function(numbers),
            jax.jacfwd(function)(numbers),
            jax.jacrev(sums)(numbers),
        )

    return lambda numbers: jax.device_get(
        run({name: np.float64(x) for name, x in numbers.items()})
    )


def assert_derivatives(run, numbers, case=lambda tree: tree, step=1e-6, rtol=1e-6):
    """Both modes agree with central differences, element by element."""
    _, forward, backward = map(case, run(numbers))
    assert {*forward} == {*numbers}
    for name, x in numbers.items():
        h = step * max(abs(x), 1e-6)
        after, before = (case(run(numbers | {name: x + d})[0]) for d in (h, -h))
        expected = (after - before) / (2 * h)
        scale = float(np.max(np.abs(expected)))
        actual = forward[name]
        chex.assert_trees_all_close(actual, expected, rtol=rtol, atol=rtol * scale)
        chex.assert_trees_all_close(
            backward[name], np.sum(actual), rtol=1e-12, atol=1e-300
        )


GATES = {"open": True, "closed": False, "opens": lambda step: step >= 1}


@functools.cache
def of_every_gate(reading, factored, **static):
    """The weights behind each of the gates: they share the arithmetic of the sums."""
    makes = {
        gate: functools.partial(
            reading, apply_decay=apply_decay, factored=factored, **static
        )
        for gate, apply_decay in GATES.items()
    }
    return with_derivatives(
        lambda numbers: {gate: weights(make, numbers) for gate, make in makes.items()}
    )


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("power", [0.5, 1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("reading", READINGS)
def test_by_every_number(reading, factored, power, static, gate):
    numbers = NUMBERS | dict(power=power)
    fixed = dict(power=numbers.pop("power")) if static else {}
    run = of_every_gate(reading, factored, **fixed)
    assert_derivatives(run, numbers, case=lambda of_gates: of_gates[gate])


def test_by_the_memory():
    gates = dict(open=True, closed=False)
    makes = {
        (reading, factored, gate): functools.partial(
            reading, apply_decay=is_open, factored=factored
        )
        for reading in READINGS
        for factored in (False, True)
        for gate, is_open in gates.items()
    }

    def function(numbers):
        return jnp.stack([weights(make, numbers) for make in makes.values()])

    numbers = dict(learning_rate=0.1, eps=0.1, memory=3.0)
    assert_derivatives(with_derivatives(function), numbers)


@pytest.mark.parametrize("eps", [1e-5, 1e-20, 1e-30, 1e-37])
@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_by_eps_where_its_square_underflows(dtype, power, eps):
    def step(eps, gradient):
        optimizer = classp_jax.classp(0.1, power=power, eps=eps)
        return optimizer.update(gradient, optimizer.init(gradient))[0]

    gradient = jnp.array([0.0, 1.0, -1e-30, np.nan, np.inf], dtype)
    jacobian = jax.jacobian(step)(jnp.asarray(eps, dtype), gradient)
    g, e = np.float64([1.0, -1e-30]), np.float64(eps)
    expected = 0.1 * g / power * (e + np.abs(g) ** power) ** (-1 / power - 1)
    chex.assert_trees_all_close(
        np.float64(jacobian[1:3]), expected, rtol=1e-4, atol=1e-30
    )
    chex.assert_trees_all_equal(jacobian[np.array([0, 3, 4])], jnp.zeros(3, dtype))


@pytest.mark.parametrize("power", [0.25, 1.0])
@pytest.mark.parametrize("name", ["learning_rate", "eps", "power"])
@pytest.mark.parametrize("make", [*READINGS, classp_jax.classp_released])
def test_behind_a_closed_gate_a_step_that_would_overflow_has_none(make, name, power):
    gradient = jnp.array([0.0, 1.0, -2.0], jnp.float32)

    def step(x):
        numbers = dict(learning_rate=0.1, eps=1e-37, power=power) | {name: x}
        optimizer = make(apply_decay=lambda count: count < 0, **numbers)
        return jnp.sum(optimizer.update(gradient, optimizer.init(gradient))[0])

    x = jnp.float32(dict(learning_rate=0.1, eps=1e-37, power=power)[name])
    expected = -jnp.sum(gradient) if name == "learning_rate" else jnp.float32(0)
    for derivative in (jax.grad(step), jax.jit(jax.grad(step)), jax.jacfwd(step)):
        chex.assert_trees_all_equal(derivative(x), expected)


@pytest.mark.parametrize(("power", "size"), [(1.0, 1e-20), (1.5, 1e-15), (2.0, 1e-12)])
@pytest.mark.parametrize(
    ("reading", "eps"),
    [(classp_jax.classp, 1e-30), (classp_jax.classp_equation1, 1e-5)],
)
def test_by_gradients_whose_total_has_no_square(reading, eps, power, size):
    gradients = size * np.random.default_rng(0).normal(size=(3, 3, 4))
    gradients[0, 0, 0] = 0

    def weight(x):
        dtype = jnp.result_type(x)
        optimizer = reading(1.0, power=power, eps=eps, factored=True)
        weight = jnp.zeros((3, 4), dtype)
        opt_state = optimizer.init(weight)
        for gradient in gradients:
            gradient, x = x * jnp.asarray(gradient, dtype), x**2
            updates, opt_state = optimizer.update(gradient, opt_state, weight)
            weight = optax.apply_updates(weight, updates)
        return jnp.sum(weight[0] * jnp.arange(4))

    expected = jax.jit(jax.grad(weight))(jnp.float64(1.3))
    for derivative in (jax.grad(weight), jax.jit(jax.jacfwd(weight))):
        actual = derivative(jnp.float32(1.3))
        chex.assert_trees_all_close(actual, np.float32(expected), rtol=1e-4)


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("reading", READINGS)
def test_by_the_gradients(reading, factored, power):
    gradients = GRADIENTS.copy()
    gradients[0, 5:7] = 1e-3, -1e-2
    finite = np.isfinite(gradients)

    def function(numbers):
        scaled = numbers["scale"] * np.where(finite, gradients, 0)
        make = functools.partial(reading, factored=factored, power=power)
        return weights(
            make,
            dict(learning_rate=0.1, eps=1e-3),
            jnp.where(finite, scaled, gradients),
        )

    assert_derivatives(with_derivatives(function), dict(scale=1.3))


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 3.0])
def test_by_a_gradient_of_0_it_is_the_scale_of_the_step(power):
    optimizer = classp_jax.classp(0.1, power=power, eps=1e-3)
    state = optimizer.init(jnp.zeros(1))
    slope = jax.grad(lambda g: optimizer.update(g, state)[0][0])(jnp.zeros(1))
    chex.assert_trees_all_close(slope, jnp.full(1, -0.1 / 1e-3 ** (1 / power)))


@pytest.mark.parametrize("threshold", [0.01, 0.5])
@pytest.mark.parametrize("relative", [False, True])
def test_behind_a_threshold(relative, threshold):
    def function(numbers, threshold=threshold):
        make = functools.partial(
            classp_jax.classp, threshold=threshold, relative=relative
        )
        return weights(make, dict(learning_rate=0.1, **numbers))

    assert_derivatives(with_derivatives(function), dict(eps=1e-3))
    by_threshold = jax.jacobian(lambda theta: function(dict(eps=1e-3), theta))
    slope = jax.jit(by_threshold)(threshold)
    chex.assert_trees_all_equal(slope, jnp.zeros_like(slope))


@pytest.mark.parametrize("gate", [True, False])
def test_of_the_released_reading(gate):
    gradients = np.where(np.isfinite(GRADIENTS), GRADIENTS, 0.1)
    make = functools.partial(classp_jax.classp_released, apply_decay=gate)
    run = with_derivatives(lambda numbers: weights(make, numbers, gradients))
    assert_derivatives(run, dict(learning_rate=0.1, eps=1e-3))


def test_of_second_order():
    make = functools.partial(classp_jax.classp, power=2.0)

    def slope(numbers):
        def total(eps):
            return jnp.sum(weights(make, dict(learning_rate=0.1, eps=eps)))

        return jax.grad(total)(numbers["eps"])

    assert_derivatives(with_derivatives(slope), dict(eps=1e-3), rtol=1e-5)
