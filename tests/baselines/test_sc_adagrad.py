"""SC-AdaGrad against a loop, the library's own parts, and what Optax asks of it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

import classp_jax
from classp_jax import _power_norm, baselines
from tests import helpers

pytestmark = pytest.mark.usefixtures("few_compiled_functions")

RNG = np.random.default_rng(6)
# Of weights whose gradients differ in size, ten steps.
GRADS = RNG.normal(size=(10, 6)) * np.array([0.0, 1e-3, 0.05, 0.3, 1.0, 30.0])
START = RNG.normal(size=6)


def loop(grads, learning_rate, xi1, xi2, start=START):
    """What the paper's Algorithm 2 gives, in float64: weights and sums."""
    w, v = start.copy(), np.zeros_like(start)
    for g in np.asarray(grads, np.float64):
        v += g**2
        w -= learning_rate * g / (v + xi2 * np.exp(-xi1 * v))
    return w, v


def run(solver, grads=GRADS, params=START, wrap=jax.jit):
    params = jnp.asarray(params, jnp.float32)
    update, opt_state = wrap(solver.update), solver.init(params)
    for g in jnp.asarray(grads, jnp.float32):
        updates, opt_state = update(g, opt_state, params)
        params = optax.apply_updates(params, updates)
    return params, opt_state


def sums(opt_state):
    return optax.tree.get(opt_state, "sum_of_squares")


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
@pytest.mark.parametrize(
    ("xi1", "xi2"), [(0.1, 0.1), (0.1, 1.0), (1.0, 0.1), (0.0, 0.5), (30.0, 1e-3)]
)
def test_it_is_the_papers_loop(xi1, xi2, wrap):
    params, opt_state = run(baselines.sc_adagrad(0.3, xi1, xi2), wrap=wrap)
    w, v = loop(np.float32(GRADS), 0.3, xi1, xi2)
    np.testing.assert_allclose(sums(opt_state), v, rtol=1e-6)
    np.testing.assert_allclose(params, w, rtol=1e-5, atol=1e-6)


def test_by_default_both_numbers_are_those_of_the_authors_code():
    params, _ = run(baselines.sc_adagrad(0.3))
    w, _ = loop(np.float32(GRADS), 0.3, 0.1, 0.1)
    np.testing.assert_allclose(params, w, rtol=1e-5, atol=1e-6)


def test_with_constant_damping_it_is_a_sum_of_squares_without_a_root():
    part = _power_norm.accumulate_and_scale(2.0, 1.0, 0.3, True, False, None)
    expected = run(optax.chain(part, optax.scale_by_learning_rate(0.2)))
    actual = run(baselines.sc_adagrad(0.2, xi1=0.0, xi2=0.3))
    chex.assert_trees_all_close(actual[0], expected[0], rtol=1e-6)
    squares = optax.tree.get(expected[1], "grad_sum")
    chex.assert_trees_all_close(sums(actual[1]), squares, rtol=1e-6)


def test_a_strongly_convex_quadratic_converges():
    curvature, centre = np.array([1.0, 3.0]), np.array([-1.0, 2.0])
    solver = baselines.sc_adagrad(3.0)

    def step(_, carry):
        params, opt_state = carry
        grads = jnp.asarray(curvature * (params - centre), jnp.float32)
        updates, opt_state = solver.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = jnp.zeros(2)
    carry = params, solver.init(params)
    params, _ = jax.jit(lambda carry: jax.lax.fori_loop(0, 500, step, carry))(carry)
    np.testing.assert_allclose(params, centre, rtol=1e-4)


def test_every_hyperparameter_may_be_a_schedule():
    rates, xi1s, xi2s = np.float32([[0.1, 0.3, 0.2], [0, 1, 0.5], [1, 0.2, 0.01]])
    schedules = {
        "learning_rate": lambda step: jnp.asarray(rates)[step],
        "xi1": lambda step: jnp.asarray(xi1s)[step],
        "xi2": lambda step: jnp.asarray(xi2s)[step],
    }
    params, _ = run(baselines.sc_adagrad(**schedules), GRADS[:3])
    w, v = START.copy(), np.zeros(6)
    numbers = zip(np.float32(GRADS[:3]), rates, xi1s, xi2s, strict=True)
    for g, rate, xi1, xi2 in numbers:
        v += np.square(g, dtype=float)
        w -= rate * g / (v + xi2 * np.exp(-xi1 * v))
    np.testing.assert_allclose(params, w, rtol=1e-5, atol=1e-6)


def test_injected_values_are_set_without_compiling_again():
    injected = optax.inject_hyperparams(baselines.sc_adagrad)(0.1)
    params, grads = jnp.asarray(START, jnp.float32), jnp.asarray(GRADS[0], jnp.float32)
    update, opt_state = jax.jit(injected.update), injected.init(params)
    for rate, xi1, xi2 in ((0.1, 0.1, 0.1), (0.5, 2.0, 0.3), (0.2, 0.0, 1.0)):
        fresh = classp_jax.set_hyperparameters(
            opt_state, learning_rate=rate, xi1=xi1, xi2=xi2
        )
        actual, _ = update(grads, fresh, params)
        plain = baselines.sc_adagrad(rate, xi1, xi2)
        expected, _ = plain.update(grads, plain.init(params), params)
        chex.assert_trees_all_close(actual, expected, rtol=1e-6)
    assert update._cache_size() == 1
    # Known only when it runs: without damping, a gradient of 0 still moves nothing.
    fresh = classp_jax.set_hyperparameters(opt_state, xi2=0.0)
    updates, _ = update(grads, fresh, params)
    assert updates[0] == 0 and np.all(np.isfinite(updates))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_rounded_once_and_its_sum_is_float32(dtype):
    half = jnp.asarray(GRADS[0], dtype)
    solver = baselines.sc_adagrad(0.3)
    actual, opt_state = jax.jit(solver.update)(half, solver.init(half), half)
    assert sums(solver.init(half)).dtype == sums(opt_state).dtype == jnp.float32
    wide = half.astype(jnp.float32)
    expected, _ = solver.update(wide, solver.init(wide), wide)
    chex.assert_trees_all_equal(actual, expected.astype(dtype))


def test_float64_stays_so():
    with helpers.enable_x64(True):
        solver = baselines.sc_adagrad(0.3)
        params, opt_state = jnp.asarray(START), solver.init(jnp.asarray(START))
        for g in GRADS:
            updates, opt_state = solver.update(jnp.asarray(g), opt_state)
            params = optax.apply_updates(params, updates)
        assert sums(opt_state).dtype == params.dtype == jnp.float64
        np.testing.assert_allclose(params, loop(GRADS, 0.3, 0.1, 0.1)[0], rtol=1e-12)


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_any_pytree_and_missing_gradients(wrap):
    tree = helpers.tree_of_everything()
    for make in (lambda: baselines.sc_adagrad(0.1), baselines.scale_by_sc_adagrad):
        solver = make()
        opt_state = solver.init(tree)
        updates, after = wrap(solver.update)(tree, opt_state, tree)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, tree)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, opt_state)
    scale = baselines.scale_by_sc_adagrad()
    params = {"trained": jnp.ones(2), "frozen": jnp.ones(3)}
    grads = {"trained": jnp.ones(2), "frozen": None}
    updates, state = wrap(scale.update)(grads, scale.init(params))
    assert updates["frozen"] is None
    assert state.count == 1
    chex.assert_trees_all_equal(
        state.sum_of_squares, {"trained": jnp.ones(2), "frozen": jnp.zeros(3)}
    )


def test_inside_optaxs_wrappers():
    params = {"w": jnp.asarray(START, jnp.float32), "rest": jnp.ones(2)}
    grads = {"w": jnp.asarray(GRADS[0], jnp.float32), "rest": jnp.ones(2)}
    solver = baselines.sc_adagrad(0.3)
    expected, _ = solver.update(grads, solver.init(params))
    only_w = {"w": True, "rest": False}
    masked = optax.masked(solver, only_w)
    updates, _ = masked.update(grads, masked.init(params), params)
    chex.assert_trees_all_equal(updates, expected | {"rest": grads["rest"]})
    several = optax.MultiSteps(solver, 2)
    opt_state = several.init(params)
    none, opt_state = several.update(grads, opt_state, params)
    updates, _ = several.update(grads, opt_state, params)
    chex.assert_trees_all_equal(none, jax.tree.map(jnp.zeros_like, grads))
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)
    each = jax.vmap(
        lambda g, rate: baselines.sc_adagrad(rate).update(g, solver.init(g))[0]
    )
    rates = jnp.array([0.1, 0.3])
    actual = each(jnp.stack([grads["w"]] * 2), rates)
    chex.assert_trees_all_close(actual[1], expected["w"], rtol=1e-6)
    chex.assert_trees_all_close(3 * actual[0], actual[1], rtol=1e-6)


def test_what_is_not_finite_or_overflows_counts_as_0():
    scale = baselines.scale_by_sc_adagrad()
    params = jnp.zeros(5)
    state = scale.init(params)._replace(
        sum_of_squares=jnp.array([1.0, 1.0, 1.0, 3e38, 1.0])
    )
    grads = jnp.array([jnp.nan, jnp.inf, 1e30, 1e19, 1.0])
    updates, after = jax.jit(scale.update)(grads, state)
    largest = np.finfo(np.float32).max
    np.testing.assert_array_equal(after.sum_of_squares, [1, 1, 1, largest, 2])
    assert updates[:3].tolist() == [0, 0, 0]
    np.testing.assert_allclose(updates[3], 1e19 / largest, rtol=1e-6)
    np.testing.assert_allclose(updates[4], 1 / (2 + 0.1 * np.exp(-0.2)), rtol=1e-6)


def test_no_number_makes_an_update_that_is_not_finite():
    sizes = np.float32([0, 1e-38, 1e-30, 1e-20, 1e-9, 1, 1e9, 1e18, 3e38])
    grads = jnp.concatenate([sizes, -sizes])
    for xi1 in (0.0, 1e-30, 0.1, 1e30, 3e38):
        for xi2 in (2e-38, 1e-9, 1.0, 3e38):
            scale = baselines.scale_by_sc_adagrad(xi1, xi2)
            state = scale.init(grads)
            for _ in range(2):
                updates, state = scale.update(grads, state)
                assert np.all(np.isfinite(updates))
                assert np.all(updates * grads >= 0)


def test_the_derivative_by_every_number_is_that_of_finite_differences():
    def update_of(gradient, total, xi1, xi2):
        scale = baselines.scale_by_sc_adagrad(xi1, xi2)
        state = scale.init(gradient)._replace(sum_of_squares=total)
        return scale.update(gradient, state)[0]

    with helpers.enable_x64(True):
        gradient, total = jnp.array([0.3, -2.0, 1e-3]), jnp.array([0.2, 5.0, 0.0])
        point = (gradient, total, jnp.array(0.4), jnp.array(0.7))
        check_grads(update_of, point, order=1, rtol=1e-6, atol=1e-9)


def test_the_state_is_four_bytes_a_weight():
    params = {"kernel": jnp.ones((30, 20)), "bias": jnp.ones(20)}
    sizes = [x.nbytes for x in jax.tree.leaves(baselines.sc_adagrad(0.1).init(params))]
    assert sum(sizes) == 4 * 620 + 4  # And the counter.


def test_map_params():
    solver = baselines.sc_adagrad(0.1)
    raised = optax.tree.map_params(
        solver, lambda s: s + 2, solver.init(START), transform_non_params=str
    )
    chex.assert_trees_all_equal(sums(raised), jnp.full(6, 2.0))
    assert type(optax.tree.get(raised, "count")) is str


@pytest.mark.skipif(not hasattr(jax, "set_mesh"), reason="newer than the lowest JAX")
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_over_eight_devices_the_sum_lies_where_the_parameters_do(axis_type):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec("data", "model"))
    grads = np.float32(RNG.normal(size=(8, 6)))
    solver = baselines.sc_adagrad(0.1)
    expected, _ = solver.update(grads, solver.init(grads))
    params = jax.device_put(grads, sharding)
    with jax.set_mesh(mesh):
        for init in (solver.init, jax.jit(solver.init)):
            opt_state = init(params)
            assert sums(opt_state).sharding.is_equivalent_to(sharding, 2)
            step = jax.jit(solver.update)
            actual, opt_state = step(params, opt_state)
            step(params, opt_state)
            assert step._cache_size() == 1
            chex.assert_trees_all_close(jax.device_get(actual), expected, rtol=1e-6)
            assert sums(opt_state).sharding.is_equivalent_to(sharding, 2)


def test_a_step_may_donate_its_state():
    solver = baselines.sc_adagrad(0.1)

    def step(params, opt_state):
        updates, opt_state = solver.update(params, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    step = jax.jit(step, donate_argnums=(0, 1))
    params = jnp.ones(3)
    opt_state = solver.init(params)
    for _ in range(2):
        old = jax.tree.leaves((params, opt_state))
        params, opt_state = step(params, opt_state)
        assert all(x.is_deleted() for x in old)
    assert step._cache_size() == 1


def test_complex_tensors_are_refused_by_name():
    params = {"spectrum": jnp.ones(2, jnp.complex64)}
    scale = baselines.scale_by_sc_adagrad()
    with pytest.raises(ValueError, match="'spectrum'.*complex64"):
        scale.init(params)
    state = scale.init({"spectrum": jnp.ones(2)})
    with pytest.raises(ValueError, match="'spectrum'.*complex64"):
        scale.update(params, state)


@pytest.mark.parametrize("name", ["xi1", "xi2"])
def test_a_schedule_must_give_a_scalar(name):
    scale = baselines.scale_by_sc_adagrad(**{name: lambda step: jnp.ones(6)})
    with pytest.raises(ValueError, match=f"{name} must be a scalar"):
        scale.update(jnp.ones(6), scale.init(jnp.ones(6)))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("xi1", -1e-9, "at least 0"), ("xi2", 0, "above 0"), ("xi2", -1.0, "above 0")],
)
def test_numbers_out_of_range_are_named(name, value, message):
    with pytest.raises(ValueError, match=f"{name} must be finite and {message}"):
        baselines.scale_by_sc_adagrad(**{name: value})
