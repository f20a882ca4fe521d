"""What the baselines that are whole optimizers owe to Optax and to each other."""

import contextlib
import functools
import inspect
import logging
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import classp_jax
from classp_jax import baselines
from tests import helpers

pytestmark = pytest.mark.usefixtures("few_compiled_functions")

MAKE = {
    "bgd": functools.partial(baselines.bgd, 0.5, 0.1, batch_size=4.0),
    "mofo": functools.partial(baselines.mofo, 0.1, 0.4, weight_decay=0.01),
    "scale_by_mofo": functools.partial(baselines.scale_by_mofo, 0.4),
    "upgd": functools.partial(baselines.upgd, 0.1),
    "upgd, as released": functools.partial(
        baselines.upgd, 0.1, sigma=0.1, correct_maximum=False
    ),
}
BYTES = {"bgd": 8, "mofo": 8, "scale_by_mofo": 8, "upgd": 4, "upgd, as released": 4}
PARAMS = {
    "kernel": jnp.linspace(-1, 1, 48).reshape(8, 6),
    "bias": jnp.linspace(0.5, 1, 16),
}
# Optax's Adam promotes its step.
NOT_ADAM = [name for name in MAKE if "mofo" not in name]
each = pytest.mark.parametrize("name", MAKE)


def arrays_like(opt_state, params):
    """The state's arrays that are shaped like a parameter, by tensor."""
    shapes = {p.shape for p in jax.tree.leaves(params)}
    leaves = jax.tree.leaves(opt_state)
    return [x for x in leaves if x.shape in shapes and x.shape != ()]


def trained(solver, params=PARAMS, steps=3, opt_state=None):
    opt_state = solver.init(params) if opt_state is None else opt_state

    @jax.jit
    def step(params, opt_state):
        grads = jax.tree.map(lambda p: 0.3 * p, params)
        updates, opt_state = solver.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    with compiled() as programs:
        for _ in range(steps):
            params, opt_state = step(params, opt_state)
    assert programs.count("step") == 1
    return params, opt_state


@contextlib.contextmanager
def compiled():
    """The names of what is compiled.

    ``_cache_size`` counts more: of a random key JAX spells the sharding now one way,
    now another.
    """
    programs = []

    def see(record):
        message = record.getMessage()
        programs.extend(re.findall(r"^Finished XLA comp.* jit\((\w+)\)", message))
        return False

    logger = logging.getLogger("jax._src.dispatch")
    logger.addFilter(see)
    try:
        with jax.log_compiles():
            yield programs
    finally:
        logger.removeFilter(see)


@each
def test_bytes_a_weight_and_one_program(name):
    params = {"w": jnp.ones((100, 100))}
    _, opt_state = trained(MAKE[name](), params)
    # But for a key, which has no bytes in the lowest version.
    arrays = [x for x in jax.tree.leaves(opt_state) if x.size == 10_000]
    kept = sum(x.nbytes for x in arrays)
    assert kept / 1e4 == pytest.approx(BYTES[name], abs=0.01)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@each
def test_trees_of_everything(name, dtype):
    params, solver = helpers.tree_of_everything(dtype), MAKE[name]()
    opt_state = solver.init(params)
    for _ in range(2):
        updates, opt_state = jax.jit(solver.update)(params, opt_state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_tree_all_finite(updates)
    assert {x.dtype for x in arrays_like(opt_state, params)} == {jnp.dtype("float32")}
    assert any(np.any(u != 0) for u in jax.tree.leaves(updates))


@each
def test_float64(name):
    with helpers.enable_x64(True):
        params, solver = {"w": jnp.linspace(-1.0, 1, 8, dtype=jnp.float64)}, None
        solver = MAKE[name]()
        updates, opt_state = solver.update(params, solver.init(params), params)
        (dtype,) = {x.dtype for x in arrays_like(opt_state, params)}
        assert dtype == updates["w"].dtype == jnp.float64


@pytest.mark.parametrize("name", NOT_ADAM)
def test_short_weights_with_long_gradients_have_long_updates(name):
    params = {"w": jnp.linspace(-1.0, 1, 8, dtype=jnp.bfloat16)}
    grads = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    solver = MAKE[name]()
    with jax.numpy_dtype_promotion("strict"):
        updates, _ = solver.update(grads, solver.init(params), params)
    assert updates["w"].dtype == jnp.float32


@pytest.mark.parametrize("name", NOT_ADAM)
def test_nothing_is_promoted_implicitly(name):
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    solver = MAKE[name]()
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        updates, _ = solver.update(params, solver.init(params), params)
    chex.assert_trees_all_equal_dtypes(updates, params)


@each
def test_a_missing_gradient_moves_and_collects_nothing(name):
    solver = MAKE[name]()
    _, opt_state = trained(solver, steps=1)
    update = jax.jit(solver.update)
    updates, after = update({"kernel": None, "bias": PARAMS["bias"]}, opt_state, PARAMS)
    assert updates["kernel"] is None and np.any(updates["bias"] != 0)
    assert jax.tree.structure(after) == jax.tree.structure(opt_state)
    pairs = zip(*(arrays_like(s, PARAMS) for s in (opt_state, after)), strict=True)
    same = {old.shape: np.array_equal(old, new) for old, new in pairs}
    assert same == {(8, 6): True, (16,): False}


@each
def test_a_frozen_group_does_as_if_it_were_alone(name):
    solver = optax.partition(
        {"train": MAKE[name](), "freeze": optax.set_to_zero()},
        {"kernel": "train", "bias": "freeze"},
    )
    actual, _ = trained(solver)
    expected, _ = trained(MAKE[name](), {"kernel": PARAMS["kernel"]})
    chex.assert_trees_all_close(actual["kernel"], expected["kernel"], rtol=1e-6)
    chex.assert_trees_all_equal(actual["bias"], PARAMS["bias"])


def scheduled(name):
    """The arguments that may be schedules, at a value that is right for each."""
    parameters = inspect.signature(MAKE[name].func).parameters
    return {
        key: 0.25
        for key, of in parameters.items()
        if of.annotation == optax.ScalarOrSchedule
    }


def arguments(name, **changed):
    """All of them by their names."""
    make = MAKE[name]
    bound = inspect.signature(make.func).bind_partial(*make.args, **make.keywords)
    return bound.arguments | changed


@each
def test_injected_values_and_schedules_equal_plain_ones(name):
    make, numbers = MAKE[name].func, scheduled(name)
    expected, _ = trained(make(**arguments(name, **numbers)))
    assert np.any(expected["kernel"] != trained(MAKE[name]())[0]["kernel"])
    injected = optax.inject_hyperparams(make, hyperparam_dtype=jnp.float32)
    actual, _ = trained(injected(**arguments(name, **numbers)))
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-5)
    schedules = dict.fromkeys(numbers, lambda step: jnp.asarray(0.25))
    actual, _ = trained(make(**arguments(name, **schedules)))
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-6)


@each
def test_changing_an_injected_value_compiles_nothing(name):
    solver = optax.inject_hyperparams(MAKE[name].func)(**arguments(name))
    update = jax.jit(solver.update)
    _, opt_state = update(PARAMS, solver.init(PARAMS), PARAMS)
    changed = classp_jax.set_hyperparameters(
        opt_state, **dict.fromkeys(scheduled(name), 0.9)
    )
    one, _ = update(PARAMS, opt_state, PARAMS)
    other, _ = update(PARAMS, changed, PARAMS)
    assert update._cache_size() == 1
    assert any(map(np.any, jax.tree.leaves(jax.tree.map(np.not_equal, one, other))))


def test_schedules_see_the_step_from_0():
    rates = jnp.array([0.0, 0.5])
    solver = baselines.upgd(0.1, sigma=lambda step: rates[step], weight_decay=0.0)
    params = {"w": jnp.zeros(3)}
    updates, opt_state = solver.update(params, solver.init(params), params)
    assert not np.any(updates["w"])
    updates, _ = solver.update(params, opt_state, params)
    assert np.all(updates["w"] != 0)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@each
def test_over_eight_devices_it_is_that_of_one(name, axis_type):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    shardings = {
        "kernel": NamedSharding(mesh, PartitionSpec("data", "model")),
        "bias": NamedSharding(mesh, PartitionSpec(("data", "model"))),
    }
    expected, _ = trained(MAKE[name]())
    placed = jax.device_put(PARAMS, shardings)
    actual, opt_state = trained(MAKE[name](), placed)
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-6)
    of_shape = {p.shape: shardings[key] for key, p in PARAMS.items()}
    for x in (*jax.tree.leaves(actual), *arrays_like(opt_state, PARAMS)):
        assert x.sharding.is_equivalent_to(of_shape[x.shape], x.ndim)


@pytest.mark.skipif(not hasattr(jax, "set_mesh"), reason="newer than the lowest JAX")
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@each
def test_a_compiled_init_makes_the_state_where_the_parameters_are(name, axis_type):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec("data", "model"))
    params = jax.device_put({"kernel": PARAMS["kernel"]}, sharding)
    solver = MAKE[name]()
    with jax.set_mesh(mesh):
        opt_state = jax.jit(solver.init)(params)
        for x in arrays_like(opt_state, params):
            assert x.sharding.is_equivalent_to(sharding, 2)
        trained(solver, params, opt_state=opt_state)


@each
def test_what_a_step_donates_is_no_part_of_the_state(name):
    params, solver = jax.tree.map(jnp.copy, PARAMS), MAKE[name]()
    opt_state = solver.init(params)
    step = jax.jit(solver.update, donate_argnums=(1,))
    updates, opt_state = step(params, opt_state, params)
    jax.tree.map(lambda p: p.delete(), params)
    updates, opt_state = step(updates, opt_state, PARAMS)
    chex.assert_tree_all_finite(updates)


@pytest.mark.parametrize("make", [baselines.upgd, baselines.bgd])
def test_a_donated_state_leaves_the_users_key(make):
    key = jax.random.key(3)
    solver = (
        make(0.1, batch_size=1, key=key)
        if make is baselines.bgd
        else make(0.1, key=key)
    )
    step = jax.jit(solver.update, donate_argnums=(1,))
    step(PARAMS, solver.init(PARAMS), PARAMS)
    assert jax.random.normal(key).shape == ()


@each
def test_map_params(name):
    solver = MAKE[name]()
    _, opt_state = trained(solver)
    raised = optax.tree.map_params(solver, lambda x: x + 1, opt_state)
    for old, new in zip(
        *(arrays_like(s, PARAMS) for s in (opt_state, raised)), strict=True
    ):
        np.testing.assert_array_equal(new, old + 1)


@each
def test_scan_and_vmap_over_seeds(name):
    solver, scales = MAKE[name](), jnp.array([0.5, 1.0])

    def run(scale):
        params = jax.tree.map(lambda p: scale * p, PARAMS)

        def step(carry, _):
            params, opt_state = carry
            updates, opt_state = solver.update(params, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        return jax.lax.scan(step, (params, solver.init(params)), length=3)[0][0]

    together = jax.vmap(run)(scales)
    for i, scale in enumerate(scales):
        alone = run(scale)
        chex.assert_trees_all_close(
            jax.tree.map(lambda x, i=i: x[i], together), alone, rtol=1e-5, atol=1e-6
        )


def test_per_layer_mofo_is_that_of_each_layer():
    solver = MAKE["mofo"]()
    layers = {"w": jnp.linspace(-1, 2, 24).reshape(2, 3, 4)}
    stacked = classp_jax.per_layer(solver)
    updates, _ = stacked.update(layers, stacked.init(layers), layers)
    for i in range(2):
        layer = {"w": layers["w"][i]}
        expected, _ = solver.update(layer, solver.init(layer), layer)
        np.testing.assert_allclose(updates["w"][i], expected["w"], rtol=1e-6)


@pytest.mark.parametrize(
    "axis_type",
    [
        None,
        AxisType.Auto,
        pytest.param(
            AxisType.Explicit,
            marks=pytest.mark.skipif(
                not hasattr(jax, "shard_map"),
                reason="the lowest JAX can't map over an axis that is cut",
            ),
        ),
    ],
)
@pytest.mark.parametrize("name", ["bgd", "upgd"])
def test_per_layer_has_noise_of_each_layer(name, axis_type):
    layers = {"w": jnp.zeros((8, 6))}
    if axis_type is not None:
        mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
        place = NamedSharding(mesh, PartitionSpec("data"))
        layers = jax.device_put(layers, place)
    solver = classp_jax.per_layer(MAKE[name]())
    update = jax.jit(solver.update)
    updates, _ = update(layers, solver.init(layers), layers)
    noise = np.asarray(updates["w"])
    assert np.unique(noise).size == noise.size


@pytest.mark.parametrize("name", ["bgd", "mofo", "upgd", "upgd, as released"])
def test_without_parameters_it_says_so(name):
    solver = MAKE[name]()
    with pytest.raises(ValueError, match=f"{name.split(',')[0]} requires the current"):
        solver.update(PARAMS, solver.init(PARAMS))


@each
def test_complex_and_integer_tensors_are_named(name):
    solver, bad = MAKE[name](), {"w": jnp.ones(2, jnp.complex64)}
    with pytest.raises(ValueError, match="w'. is complex"):
        solver.init(bad)
    params = {"w": jnp.ones(2)}
    opt_state = solver.init(params)
    with pytest.raises(ValueError, match="w'. is complex"):
        solver.update(bad, opt_state, params)
    with pytest.raises(TypeError, match="gradient must be floating; w is int"):
        solver.update({"w": jnp.ones(2, jnp.int32)}, opt_state, params)
