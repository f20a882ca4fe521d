"""What bad gradients do to weights and sums."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import classp_jax
from benchmarks import accumulation
from tests import helpers

STEPS, WEIGHTS = 8, 50
DTYPES = ["float16", "bfloat16", "float32", "float64"]


@pytest.fixture(autouse=True)
def with_float64():
    with helpers.enable_x64(True):
        yield


@functools.partial(jax.jit, static_argnames=("power", "dtype", "relative"))
def scan(params, gradients, gate, threshold, power, dtype, relative):
    def step(carry, inputs):
        gradient, apply_decay = inputs
        optimizer = classp_jax.classp(
            0.1,
            threshold,
            power=power,
            apply_decay=apply_decay,
            relative=relative,
            accumulator_dtype=dtype,
        )
        params, opt_state = carry
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), (params, optax.tree.get(opt_state, "grad_sum"))

    optimizer = classp_jax.classp(0.1, accumulator_dtype=dtype)
    return jax.lax.scan(step, (params, optimizer.init(params)), (gradients, gate))[1]


def run(
    gradients, dtype, power, *, threshold=0.0, gate=None, relative=False, sums=None
):
    """Weights and sums behind every step."""
    steps, weights = gradients.shape
    gate = np.ones(steps, bool) if gate is None else gate
    return jax.device_get(
        scan(
            jnp.linspace(-1, 1, weights).astype(dtype),
            jnp.asarray(gradients, dtype),
            gate,
            jnp.float32(threshold),
            power,
            sums,
            relative,
        )
    )


def stream(seed=0):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(STEPS, WEIGHTS)) * 10 ** rng.uniform(-3, 1, WEIGHTS)
    return gradients, rng


def assert_sound(weights, sums):
    assert np.all(np.isfinite(sums.astype(np.float64)))
    assert np.all(np.diff(sums.astype(np.float64), axis=0) >= 0)
    assert np.all(np.isfinite(weights.astype(np.float64)))


HUGE = {"float16": 6e4, "bfloat16": 1e30, "float32": 1e30, "float64": 1e200}
every_dtype = pytest.mark.parametrize("dtype", HUGE)
every_power = pytest.mark.parametrize("power", [1, 1.5, 2])


@every_dtype
@every_power
def test_what_is_not_finite_is_as_if_it_had_not_been(dtype, power):
    gradients, rng = stream()
    hit = rng.random(gradients.shape) < 0.2
    hit[:, :5] = False
    hit[0, 5:10] = True  # From the first step on.
    hit[:, 10:12] = True  # At every step.
    bad = rng.choice([np.nan, np.inf, -np.inf], gradients.shape)
    for settings in ({}, dict(threshold=0.01), dict(gate=np.arange(STEPS) % 2 == 1)):
        actual = run(np.where(hit, bad, gradients), dtype, power, **settings)
        assert_sound(*actual)
        expected = run(np.where(hit, 0, gradients), dtype, power, **settings)
        chex.assert_trees_all_equal(actual, expected)
        sums = actual[1]
        assert not np.any(sums[:, 10:12]) and np.any(sums[-1, :5])


@every_dtype
@every_power
def test_all_bad_from_the_first_step_on_moves_nothing(dtype, power):
    gradients, _ = stream()
    start = np.asarray(jnp.linspace(-1, 1, WEIGHTS).astype(dtype))
    half = STEPS // 2
    expected = run(np.roll(gradients, half, axis=0), dtype, power)
    for bad in (np.nan, np.inf, 0.0):
        late = gradients.copy()
        late[:half] = bad
        weights, sums = run(late, dtype, power)
        assert not np.any(sums[:half])
        np.testing.assert_array_equal(weights[:half], np.tile(start, (half, 1)))
        # Then it learns as if they had not been.
        for one, other in zip((weights, sums), expected, strict=True):
            np.testing.assert_array_equal(one[half:], other[:half])


@every_dtype
@every_power
def test_what_overflows_or_underflows_leaves_the_others_alone(dtype, power):
    gradients, rng = stream()
    hit = rng.random(gradients.shape) < 0.2
    hit[:, :5], hit[:, 5:7] = False, True
    others = ~hit.any(axis=0)
    huge = HUGE[dtype]
    clean = run(gradients, dtype, power)
    for value in (huge, -huge, 1 / huge, -1 / huge):
        for settings in ({}, dict(threshold=1e-5), dict(threshold=1, relative=True)):
            gradient = np.where(hit, value, gradients)
            weights, sums = run(gradient, dtype, power, **settings)
            assert_sound(weights, sums)
            if not settings:
                for one, other in zip((weights, sums), clean, strict=True):
                    np.testing.assert_array_equal(one[:, others], other[:, others])


@pytest.mark.parametrize(
    ("dtype", "power", "value"),
    [
        ("bfloat16", 2, 1e30),
        ("float32", 1.5, -1e30),
        ("float32", 2, 1e30),
        ("float32", 7, 1e6),
        ("float64", 2, -1e200),
    ],
)
def test_what_has_no_finite_power_is_as_if_it_had_not_been(dtype, power, value):
    gradients, rng = stream()
    hit = rng.random(gradients.shape) < 0.2
    actual = run(np.where(hit, value, gradients), dtype, power)
    assert_sound(*actual)
    expected = run(np.where(hit, 0, gradients), dtype, power)
    chex.assert_trees_all_equal(actual, expected)


@pytest.mark.parametrize(
    ("dtype", "accumulator_dtype", "power", "value"),
    [
        ("float32", None, 1, 2e38),
        ("float32", None, 2, 1.5e19),
        ("bfloat16", None, 1, 2e38),
        ("float32", jnp.bfloat16, 1, 2e38),
        ("float32", jnp.float16, 1, 3e4),
        ("float16", jnp.float16, 2, 200.0),
        ("float64", None, 1, 1e308),
        ("float64", jnp.float32, 1, 1e200),
    ],
)
def test_a_sum_saturates(dtype, accumulator_dtype, power, value):
    gradients = np.full((STEPS, WEIGHTS), value)
    weights, sums = run(gradients, dtype, power, sums=accumulator_dtype)
    assert_sound(weights, sums)
    largest = jnp.finfo(sums.dtype).max
    np.testing.assert_array_equal(sums[-1], largest)
    # What fits in goes on to be added.
    gradients /= 10
    _, sums = run(gradients, dtype, power, sums=accumulator_dtype)
    if value**power < float(largest):
        assert np.all(sums[1].astype(float) > sums[0].astype(float))


@pytest.mark.parametrize(
    ("dtype", "power", "value"),
    [
        (dtype, power, value)
        for dtype in (jnp.float16, jnp.bfloat16, None)
        for power, value in ((1, 7e4), (2, 300.0), (2, 1e4), (1.5, 2000.0))
    ],
)
def test_a_term_that_fits_no_sum_still_shortens_its_step(dtype, power, value):
    """The divisor has the present gradient as it is, whatever the sum can hold."""
    gradients = np.full((3, 2), value)
    weights, sums = run(gradients, "float32", power, sums=dtype)
    steps = np.diff(weights, axis=0, prepend=np.float32([[-1, 1]]))
    before = np.minimum([0.0, *sums[:-1, 0]], float(jnp.finfo(sums.dtype).max))
    expected = -0.1 * value / (1e-5 + before + value**power) ** (1 / power)
    np.testing.assert_allclose(steps[:, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(steps[0], -0.1, rtol=1e-5)
    assert np.all(np.abs(steps) <= 0.1 * (1 + 1e-5))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_nan_in_28_million(dtype):
    optimizer = classp_jax.classp(0.1)
    gradient = jax.random.normal(jax.random.key(0), (28_000_000,), dtype)
    params = jnp.zeros_like(gradient)
    where = 12_345_678
    outcomes = []
    for value in (jnp.nan, 0):
        step = jax.jit(optimizer.update)
        updates, opt_state = step(
            gradient.at[where].set(value), optimizer.init(params), params
        )
        outcomes.append((updates, optax.tree.get(opt_state, "grad_sum")))
    chex.assert_trees_all_equal(*outcomes)
    updates, grad_sum = outcomes[0]
    assert updates[where] == grad_sum[where] == 0
    assert int(jnp.count_nonzero(updates)) == int(jnp.count_nonzero(gradient)) - 1


@pytest.mark.parametrize(
    ("additions", "dtype", "equal", "normal"),
    [
        (10**6, "bfloat16", -1.0, -1.0),
        (10**6, "float32", 0.0096, -0.000007),
        pytest.param(10**8, "bfloat16", -1.0, -1.0, marks=pytest.mark.slow),
        pytest.param(10**8, "float32", -0.79, -0.46, marks=pytest.mark.slow),
        pytest.param(10**8, "float64", 0.0, 0.0, marks=pytest.mark.slow),
    ],
)
def test_the_sums_error_is_what_the_docs_say(additions, dtype, equal, normal):
    (errors,) = accumulation.errors(dtype, [additions]).values()
    np.testing.assert_allclose(errors, (equal, normal), rtol=0.01, atol=1e-6)


@pytest.mark.parametrize("sums", ["float16", "bfloat16", None])
def test_the_released_reading_divides_infinity_by_infinity_in_any_sum(sums):
    solver = classp_jax.classp_released(1.0, accumulator_dtype=sums)
    gradient = jnp.asarray([jnp.inf, jnp.nan, 1e6, -2.0], jnp.float32)
    updates, opt_state = solver.update(gradient, solver.init(gradient))
    largest = min(float(jnp.finfo(sums or jnp.float32).max), 1e6)
    np.testing.assert_array_equal(np.isnan(updates), [True, True, False, False])
    np.testing.assert_allclose(updates[2:], [-1, 1], rtol=1e-5)
    (of_each,) = jax.tree.leaves(helpers.sum_of_each_weight(opt_state))
    np.testing.assert_allclose(
        of_each.astype(jnp.float32), [np.inf, np.nan, largest, 2], rtol=1e-2
    )
