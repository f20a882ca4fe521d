"""CLASSP inside everything that Optax, Flax and Equinox wrap around an optimizer."""

import re
import warnings

import chex
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training import train_state
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import classp_jax
from classp_jax import baselines
from tests import helpers

pytestmark = pytest.mark.usefixtures("few_compiled_functions")

PARAMS = {"kernel": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "bias": jnp.ones(4)}
INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(16, 3)), jnp.float32)
TARGETS = jnp.asarray(np.random.default_rng(1).normal(size=(16, 4)), jnp.float32)


def loss_fn(params):
    predictions = INPUTS @ params["kernel"] + params["bias"]
    return jnp.mean((predictions - TARGETS) ** 2)


def train(optimizer, params=PARAMS, steps=5, opt_state=None):
    opt_state = optimizer.init(params) if opt_state is None else opt_state

    @jax.jit
    def step(params, opt_state):
        grads = jax.grad(loss_fn)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for _ in range(steps):
        params, opt_state = step(params, opt_state)
    return params, opt_state


OPTIMIZERS = helpers.READINGS | helpers.FACTORED


def make(reading, **hyperparameters):
    return OPTIMIZERS[reading](
        **{"learning_rate": 0.1, "threshold": 1e-4, "eps": 1e-2, **hyperparameters}
    )


def inject(reading, **hyperparameters):
    return optax.inject_hyperparams(OPTIMIZERS[reading], static_args="power")(
        **{"learning_rate": 0.1, "threshold": 1e-4, "eps": 1e-2, **hyperparameters}
    )


all_readings = pytest.mark.parametrize("reading", OPTIMIZERS)


@all_readings
def test_chain_with_clipping(reading):
    clip = optax.clip_by_global_norm(0.01)
    optimizer = make(reading)
    actual, _ = train(optax.chain(clip, optimizer), steps=1)
    clipped, _ = clip.update(jax.grad(loss_fn)(PARAMS), clip.init(PARAMS))
    updates, _ = optimizer.update(clipped, optimizer.init(PARAMS))
    chex.assert_trees_all_close(actual, optax.apply_updates(PARAMS, updates), rtol=1e-6)


@all_readings
def test_masked_and_partition_leave_the_rest_alone(reading):
    only_kernel = {"kernel": True, "bias": False}
    masked = optax.chain(
        optax.masked(make(reading), only_kernel),
        optax.masked(optax.set_to_zero(), {"kernel": False, "bias": True}),
    )
    partition = optax.partition(
        {"train": make(reading), "freeze": optax.set_to_zero()},
        {"kernel": "train", "bias": "freeze"},
    )
    results = [train(optimizer)[0] for optimizer in (masked, partition)]
    chex.assert_trees_all_close(*results)
    chex.assert_trees_all_equal(results[0]["bias"], PARAMS["bias"])
    assert np.any(results[0]["kernel"] != PARAMS["kernel"])


@all_readings
def test_multi_steps_accumulates_gradients(reading):
    averaged = optax.MultiSteps(make(reading), every_k_schedule=2)
    actual, opt_state = train(averaged.gradient_transformation(), steps=2)
    expected, expected_state = train(make(reading), steps=1)
    chex.assert_trees_all_close(actual, expected, rtol=1e-6)
    chex.assert_trees_all_close(
        classp_jax.average_grad_sum(opt_state),
        classp_jax.average_grad_sum(expected_state),
        rtol=1e-6,
    )


@all_readings
def test_injected_values_equal_the_plain_optimizer(reading):
    actual, _ = train(inject(reading, apply_decay=1.0))
    expected, _ = train(make(reading))
    # Weights near 0 are what steps of a size of 1 leave.
    chex.assert_trees_all_close(actual, expected, rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_changing_an_injected_value_does_not_recompile_in_any_precision(dtype):
    make_optimizer = optax.inject_hyperparams(
        classp_jax.classp, static_args="power", hyperparam_dtype=jnp.float32
    )
    optimizer = make_optimizer(0.1, threshold=1e-8, eps=1e-8, apply_decay=0.0)
    params = jnp.ones(3, dtype)
    update, opt_state = jax.jit(optimizer.update), optimizer.init(params)
    for value in (0.0, 1.0, 0.0):
        opt_state = classp_jax.set_hyperparameters(opt_state, apply_decay=value)
        updates, opt_state = update(params, opt_state, params)
    assert updates.dtype == dtype
    assert update._cache_size() == 1
    assert optax.tree.get(opt_state, "eps") == np.float32(1e-8)


@all_readings
def test_changing_an_injected_value_does_not_recompile(reading):
    optimizer = inject(reading, apply_decay=0.0)
    traces = []

    @jax.jit
    def step(params, opt_state):
        traces.append(None)
        updates, opt_state = optimizer.update(
            jax.grad(loss_fn)(params), opt_state, params
        )
        return optax.apply_updates(params, updates), opt_state

    params, opt_state = step(PARAMS, optimizer.init(PARAMS))
    opt_state = classp_jax.set_hyperparameters(
        opt_state, learning_rate=0.3, threshold=1e-3, eps=1e-1, apply_decay=True
    )
    before = params, opt_state
    actual, _ = step(*before)
    assert len(traces) == 1

    plain = make(reading, learning_rate=0.3, threshold=1e-3, eps=1e-1)
    plain_state = optax.tree.set(
        plain.init(PARAMS), grad_sum=optax.tree.get(opt_state, "grad_sum")
    )
    expected, _ = train(plain, params, 1, plain_state)
    chex.assert_trees_all_close(actual, expected, rtol=1e-6)


@all_readings
def test_schedules_equal_injected_schedules_and_changes_by_hand(reading):
    schedules = dict(
        learning_rate=optax.piecewise_constant_schedule(0.1, {3: 0.5}),
        threshold=lambda step: jnp.where(step < 3, 1e-3, 0.0),
        eps=lambda step: jnp.where(step < 3, 1e-2, 1e-1),
        apply_decay=lambda step: step >= 3,
    )
    scheduled, scheduled_state = train(make(reading, **schedules), steps=6)
    injected, _ = train(inject(reading, **schedules), steps=6)
    chex.assert_trees_all_close(scheduled, injected, rtol=1e-6)

    first = dict(learning_rate=0.1, threshold=1e-3, eps=1e-2, apply_decay=False)
    then = dict(learning_rate=0.05, threshold=0.0, eps=1e-1, apply_decay=True)
    params, opt_state = train(make(reading, **first), steps=3)
    params, by_hand_state = train(make(reading, **then), params, 3, opt_state)
    chex.assert_trees_all_close(scheduled, params, rtol=1e-6)
    chex.assert_trees_all_close(
        *(optax.tree.get(s, "grad_sum") for s in (scheduled_state, by_hand_state)),
        rtol=1e-6,
    )


@pytest.mark.parametrize("wrapper", [lambda x: x, jnp.asarray])
def test_an_injected_power_makes_the_steps_of_a_static_one(wrapper):
    injected = optax.inject_hyperparams(classp_jax.classp)(0.1, power=wrapper(1.5))
    gradient = jax.tree.map(lambda p: 0.3 * p, PARAMS)
    outcomes = []
    for optimizer in (injected, classp_jax.classp(0.1, power=1.5)):
        updates, _ = optimizer.update(gradient, optimizer.init(PARAMS), PARAMS)
        outcomes.append(updates)
    chex.assert_trees_all_close(*outcomes, rtol=1e-6)


def test_injected_dtype_is_refused_with_the_way_out():
    hyperparameters = dict(learning_rate=0.1, accumulator_dtype=jnp.bfloat16)
    optimizer = optax.inject_hyperparams(classp_jax.classp, static_args="power")
    with pytest.raises(TypeError, match="'accumulator_dtype' to static_args"):
        optimizer(**hyperparameters).init(PARAMS)
    with pytest.raises(TypeError, match="accumulator_dtype must be fixed when"):
        classp_jax.classp(0.1, accumulator_dtype=jnp.ones(3))
    static = ("power", "accumulator_dtype")
    optimizer = optax.inject_hyperparams(classp_jax.classp, static_args=static)
    opt_state = optimizer(**hyperparameters).init(PARAMS)
    assert optax.tree.get(opt_state, "grad_sum")["bias"].dtype == jnp.bfloat16


def test_injected_learning_rate_keeps_the_dtypes_of_a_mixed_tree():
    params = {"half": jnp.ones(3, jnp.bfloat16), "single": jnp.ones(3)}
    optimizer = inject("algorithm1")
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)


@all_readings
def test_map_params(reading):
    optimizer = make(reading)
    opt_state = optimizer.init(PARAMS)
    raised = optax.tree.map_params(
        optimizer, lambda s: s + 2, opt_state, transform_non_params=str
    )
    expected = jax.tree.map(lambda s: s + 2, optax.tree.get(opt_state, "grad_sum"))
    chex.assert_trees_all_equal(optax.tree.get(raised, "grad_sum"), expected)
    assert all(
        type(count) is str for _, count in optax.tree.get_all_with_path(raised, "count")
    )


@all_readings
def test_scan_and_cond_over_states(reading):
    optimizer = make(reading)

    def step(carry, skip):
        def update(carry):
            params, opt_state = carry
            updates, opt_state = optimizer.update(
                jax.grad(loss_fn)(params), opt_state, params
            )
            return optax.apply_updates(params, updates), opt_state

        return jax.lax.cond(skip, lambda carry: carry, update, carry), None

    skip = jnp.array([False, True, False, True, False])
    (actual, _), _ = jax.lax.scan(step, (PARAMS, optimizer.init(PARAMS)), skip)
    expected, _ = train(optimizer, steps=3)
    chex.assert_trees_all_close(actual, expected, rtol=1e-6)


@all_readings
def test_vmap_over_seeds_and_learning_rates(reading):
    def run(scale, learning_rate):
        params = jax.tree.map(lambda p: scale * p, PARAMS)
        optimizer = make(reading, learning_rate=learning_rate)
        opt_state = optimizer.init(params)
        for _ in range(3):
            updates, opt_state = optimizer.update(
                jax.grad(loss_fn)(params), opt_state, params
            )
            params = optax.apply_updates(params, updates)
        return params

    scales, learning_rates = jnp.array([0.5, 1.0]), jnp.array([0.01, 0.1, 1.0])
    over_seeds = jax.vmap(run, (0, None))
    actual = jax.vmap(over_seeds, (None, 0))(scales, learning_rates)
    for i, rate in enumerate(learning_rates):
        for j, scale in enumerate(scales):
            chex.assert_trees_all_close(
                jax.tree.map(lambda x, i=i, j=j: x[i, j], actual),
                run(scale, rate),
                rtol=1e-4,
                atol=1e-6,
            )


@all_readings
def test_donation_reuses_every_buffer_of_the_state(reading):
    optimizer = make(reading)

    def step(params, opt_state, grads):
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = jax.tree.map(jnp.copy, PARAMS)
    opt_state = optimizer.init(params)
    grads = jax.grad(loss_fn)(params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # JAX warns of a donation that it can't use.
        new = jax.jit(step, donate_argnums=(0, 1))(params, opt_state, grads)
    assert all(x.is_deleted() for x in jax.tree.leaves((params, opt_state)))
    assert not any(x.is_deleted() for x in jax.tree.leaves(new))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@all_readings
def test_state_keeps_each_parameters_sharding_over_eight_devices(reading, axis_type):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    shardings = {
        "kernel": NamedSharding(mesh, PartitionSpec("data", "model")),
        "bias": NamedSharding(mesh, PartitionSpec(None)),
    }
    # As wide as the bias, the sum of the columns would share a constant with it, and
    # JAX 0.5's partitioner hand the one's sharding on to the other.
    params = {"kernel": jnp.ones((8, 10)), "bias": jnp.arange(6.0)}
    expected, _ = one_step(make(reading), params)
    params = jax.device_put(params, shardings)
    actual, opt_state = one_step(make(reading), params)
    chex.assert_trees_all_close(actual, expected)
    before = make(reading).init(params)
    for old, new in zip(
        jax.tree.leaves(before), jax.tree.leaves(opt_state), strict=True
    ):
        assert new.sharding.is_equivalent_to(old.sharding, old.ndim)
    grad_sum = optax.tree.get(opt_state, "grad_sum")
    lies = {(x.shape, x.sharding.spec) for x in jax.tree.leaves(grad_sum)}
    if isinstance(grad_sum["kernel"], classp_jax.FactoredSum):
        rows, columns = PartitionSpec("data"), PartitionSpec("model")
        assert {((8,), rows), ((10,), columns)} <= lies
        shardings.pop("kernel")
        grad_sum.pop("kernel")
    for tree in (actual, grad_sum):
        for name, sharding in shardings.items():
            assert tree[name].sharding.is_equivalent_to(sharding, tree[name].ndim)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("reading", ["algorithm1", "equation1"])
def test_relative_threshold_over_eight_devices_is_that_of_one(reading, axis_type):
    # Rows 0 to 3 are below the mean of all, and half of them above their device's.
    kernel = jnp.arange(1.0, 49.0).reshape(8, 6)
    params = {"kernel": kernel, "bias": jnp.arange(1.0, 17.0)}
    optimizer = make(reading, threshold=0.9, relative=True)
    expected, expected_state = one_step(optimizer, params)

    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    shardings = {
        "kernel": NamedSharding(mesh, PartitionSpec("data", "model")),
        "bias": NamedSharding(mesh, PartitionSpec(("data", "model"))),
    }
    actual, opt_state = one_step(optimizer, jax.device_put(params, shardings))
    chex.assert_trees_all_close(actual, expected)
    chex.assert_trees_all_close(
        *(optax.tree.get(s, "grad_sum") for s in (opt_state, expected_state))
    )
    closed = jax.tree.map(lambda new, old: np.asarray(new == old), actual, params)
    assert closed["kernel"][:4].all() and not closed["kernel"][5:].any()
    assert closed["bias"][:9].all() and not closed["bias"][9:].any()
    for tree in (actual, optax.tree.get(opt_state, "grad_sum")):
        for name, sharding in shardings.items():
            assert tree[name].sharding.is_equivalent_to(sharding, tree[name].ndim)


def one_step(optimizer, params):
    """With eager ``init``, jitted ``update``, and sharding left to propagate."""
    opt_state = optimizer.init(params)
    for name, grad_sum in optax.tree.get(opt_state, "grad_sum").items():
        if isinstance(grad_sum, jax.Array):
            assert grad_sum.sharding == params[name].sharding

    @jax.jit
    def step(params, opt_state):
        updates, opt_state = optimizer.update(params, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    result = step(params, opt_state)
    step(*result)
    assert step._cache_size() == 1
    return result


def scanned(optimizer):
    """Two steps, and the state they begin with, in one program."""

    def train(params):
        def step(carry, _):
            params, opt_state = carry
            updates, opt_state = optimizer.update(params, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=2)
        return params

    return train


@pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="newer than the lowest JAX")
@all_readings
def test_a_compiled_program_makes_the_state_where_its_parameters_are(reading):
    params = {"kernel": jnp.linspace(-1, 1, 96).reshape(16, 6), "bias": jnp.ones(16)}
    train, spec = jax.jit(scanned(make(reading))), PartitionSpec("data")
    shards = [
        jax.tree.map(lambda p, i=i: p[2 * i : 2 * i + 2], params) for i in range(8)
    ]
    expected = jax.tree.map(lambda *p: jnp.concatenate(p), *map(train, shards))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    each = jax.shard_map(train, mesh=mesh, in_specs=spec, out_specs=spec)
    chex.assert_trees_all_close(jax.jit(each)(params), expected, rtol=1e-6, atol=1e-6)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    placed = jax.device_put(params, NamedSharding(mesh, spec))
    with jax.set_mesh(mesh):
        actual = train(placed)
    chex.assert_trees_all_close(actual, train(params), rtol=1e-6, atol=1e-6)
    for name, p in placed.items():
        assert actual[name].sharding.is_equivalent_to(p.sharding, p.ndim)


PENALTIES = {
    "ewc_penalty": lambda like: baselines.ewc_penalty(
        jax.tree.map(np.ones_like, like), jax.tree.map(np.ones_like, like), 1.0, 0.1
    ),
    "synaptic_intelligence": lambda like: baselines.synaptic_intelligence(
        classp_jax.classp(0.1), 1.0
    ),
    "per layer": lambda like: classp_jax.per_layer(
        baselines.synaptic_intelligence(optax.sgd(0.1), 1.0)
    ),
}


@pytest.mark.skipif(not hasattr(jax, "set_mesh"), reason="newer than the lowest JAX")
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", PENALTIES)
def test_a_compiled_init_makes_a_penalty_where_the_parameters_are(name, axis_type):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    like = {"kernel": np.ones((8, 6), np.float32)}
    sharding = NamedSharding(mesh, PartitionSpec("data", "model"))
    params, solver = jax.device_put(like, sharding), PENALTIES[name](like)

    @jax.jit
    def step(params, opt_state):
        updates, opt_state = solver.update(params, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    with jax.set_mesh(mesh):
        opt_state = jax.jit(solver.init)(params)
        trees = [x for x in jax.tree.leaves(opt_state) if x.ndim == 2]
        assert len(trees) >= 2
        for x in trees:
            assert x.sharding.is_equivalent_to(sharding, 2)
        for _ in range(2):
            params, opt_state = step(params, opt_state)
    assert step._cache_size() == 1


# What depends on a tensor as a whole.
WHOLE_TENSORS = {
    "relative": dict(threshold=1.0, relative=True),
    "factored": dict(factored=True),
    "both": dict(threshold=1.0, relative=True, factored=True),
}
whole_tensors = pytest.mark.parametrize(
    "kwargs", WHOLE_TENSORS.values(), ids=WHOLE_TENSORS
)
newer_than_the_lowest_jax = pytest.mark.skipif(
    not hasattr(jax, "shard_map"), reason="newer than the lowest JAX"
)


def shards_of_unequal_size():
    """A weight cut among eight devices, and its loss, a sum of what each has."""
    weight = jnp.linspace(-1, 1, 96).reshape(16, 6) * (1 + jnp.arange(16.0))[:, None]
    return weight, lambda weight: jnp.sum(weight**2) / 2


@newer_than_the_lowest_jax
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@whole_tensors
def test_gradients_of_shards_and_an_update_outside_are_those_of_one_device(
    kwargs, axis_type
):
    weight, loss = shards_of_unequal_size()
    optimizer = classp_jax.classp(0.1, **kwargs)
    mesh = jax.make_mesh((8,), ("model",), axis_types=(axis_type,))
    spec = PartitionSpec("model", None)
    of_shards = jax.shard_map(jax.grad(loss), mesh=mesh, in_specs=spec, out_specs=spec)

    def trained(gradient, weight):
        @jax.jit
        def step(weight, opt_state):
            updates, opt_state = optimizer.update(gradient(weight), opt_state, weight)
            return optax.apply_updates(weight, updates), opt_state

        carry = weight, optimizer.init(weight)
        for _ in range(3):
            carry = step(*carry)
        assert step._cache_size() == 1
        return carry

    actual = trained(of_shards, jax.device_put(weight, NamedSharding(mesh, spec)))
    chex.assert_trees_all_close(actual, trained(jax.grad(loss), weight), rtol=1e-5)


@newer_than_the_lowest_jax
@whole_tensors
def test_inside_shard_map_a_shard_is_a_tensor(kwargs):
    weight, loss = shards_of_unequal_size()
    optimizer = classp_jax.classp(0.1, **kwargs)

    def train(weight):
        opt_state = optimizer.init(weight)
        for _ in range(3):
            updates, opt_state = optimizer.update(jax.grad(loss)(weight), opt_state)
            weight = optax.apply_updates(weight, updates)
        return weight

    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("model")
    inside = jax.jit(jax.shard_map(train, mesh=mesh, in_specs=spec, out_specs=spec))
    by_shard = jnp.concatenate([train(shard) for shard in jnp.split(weight, 8)])
    chex.assert_trees_all_close(inside(weight), by_shard, rtol=1e-5)
    assert jnp.max(jnp.abs(by_shard - train(weight))) > 0.01


@newer_than_the_lowest_jax
@whole_tensors
def test_inside_shard_map_whole_parameters_are_whole(kwargs):
    weight, _ = shards_of_unequal_size()
    optimizer = classp_jax.classp(0.1, **kwargs)
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(32, 16)), jnp.float32)

    def gradient(weight, inputs):
        return jax.grad(lambda w: jnp.mean((inputs @ w) ** 2))(weight)

    def step(weight, inputs, mean=lambda g: g):
        opt_state = optimizer.init(weight)
        for _ in range(2):
            gradients = mean(gradient(weight, inputs))
            updates, opt_state = optimizer.update(gradients, opt_state, weight)
            weight = optax.apply_updates(weight, updates)
        return weight

    def of_device(weight, inputs):
        weight = jax.lax.pcast(weight, "data", to="varying")
        return jax.lax.pmean(
            step(weight, inputs, lambda g: jax.lax.pmean(g, "data")), "data"
        )

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    data = PartitionSpec("data")
    inside = jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=(PartitionSpec(), data),
        out_specs=PartitionSpec(),
    )
    chex.assert_trees_all_close(
        jax.jit(inside)(weight, inputs), step(weight, inputs), rtol=1e-4, atol=1e-4
    )


@all_readings
def test_nothing_is_promoted_implicitly(reading):
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        optimizer = make(reading)
        updates, _ = optimizer.update(params, optimizer.init(params), params)
    chex.assert_trees_all_equal_dtypes(updates, params)


@pytest.mark.parametrize("reading", helpers.READINGS)
def test_devices_send_each_other_nothing(reading):
    place = NamedSharding(jax.make_mesh((8,), ("data",)), PartitionSpec("data"))
    optimizer = helpers.READINGS[reading](0.1, 1e-4)
    params = jax.device_put({"w": jnp.ones((64, 48))}, place)
    update = jax.jit(optimizer.update).lower(params, optimizer.init(params), params)
    sent = re.findall(
        r" (all-reduce|all-gather|all-to-all|collective-permute)\(",
        update.compile().as_text(),
    )
    # Of each tensor the released one must know whether any gradient is not 0.
    assert sent == (["all-reduce"] if reading == "released" else [])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: classp_jax.decay_gate(inner, True),
        lambda inner: classp_jax.threshold_mask(0.0, inner=inner),
        lambda inner: baselines.synaptic_intelligence(inner, 0.0),
    ],
    ids=["decay_gate", "threshold_mask", "synaptic_intelligence"],
)
def test_params_and_extra_arguments_are_handed_on(wrap):
    def update_fn(updates, state, params=None, *, value, other):
        return jax.tree.map(lambda g, p: g + p + value + other, updates, params), state

    inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)
    wrapped, one = wrap(inner), jnp.array(1.0)
    extra = {"value": jnp.array(5.0), "other": 2.0}
    for update in (wrapped.update, jax.jit(wrapped.update)):
        updates, _ = update(one, wrapped.init(one), one, **extra)
        chex.assert_trees_all_equal(updates, jnp.array(9.0))


@all_readings
def test_nnx_optimizer(reading):
    model = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    params = {"kernel": model.kernel[...], "bias": model.bias[...]}
    optimizer = nnx.Optimizer(model, make(reading), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            return jnp.mean((model(INPUTS) - TARGETS) ** 2)

        optimizer.update(model, nnx.grad(loss)(model))

    for _ in range(5):
        step(model, optimizer)
    expected, expected_state = train(make(reading), params)
    chex.assert_trees_all_close(model.kernel[...], expected["kernel"], rtol=1e-5)
    chex.assert_trees_all_close(
        classp_jax.average_grad_sum(optimizer.opt_state),
        classp_jax.average_grad_sum(expected_state),
        rtol=1e-5,
    )


def specs_of(tree):
    return jax.tree.map(lambda x: tuple(x.sharding.spec), tree)


class Annotated(nnx.Module):
    """A layer whose kernel, by its annotation, is cut along both of its axes."""

    def __init__(self, **metadata):
        kernel = jnp.linspace(-1, 1, 16 * 32).reshape(16, 32)
        self.kernel = nnx.Param(kernel, out_sharding=("x", "y"), **metadata)
        self.bias = nnx.Param(jnp.zeros(32), out_sharding=("y",))

    def __call__(self, inputs):
        return inputs @ self.kernel[...] + self.bias[...]


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("metadata", [{}, {"optimizer_sharding": ("y", "x")}])
def test_nnx_optimizer_of_an_annotated_module(metadata, compiled, axis_type):
    def create():
        model = Annotated(**metadata)
        tx = classp_jax.classp(0.1, factored=True)
        return model, nnx.Optimizer(model, tx, wrt=nnx.Param)

    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(axis_type,) * 2)
    with jax.set_mesh(mesh):
        _, optimizer = nnx.jit(create)() if compiled else create()
        abstract = nnx.eval_shape(create)[1]
    expected = {"rows": ("x",), "columns": ("y",)}
    if metadata:
        expected = {"rows": ("y",), "columns": ("x",)}
    for of_state in (
        lambda opt_state: specs_of(nnx.to_pure_dict(nnx.state(opt_state))),
        lambda _: jax.tree.map(
            tuple,
            nnx.to_pure_dict(nnx.get_partition_spec(nnx.state(abstract.opt_state))),
        ),
    ):
        grad_sum = of_state(optimizer.opt_state)[0]["inner_state"]["inner_state"]
        assert grad_sum["grad_sum"]["kernel"] == expected


def test_nnx_optimizer_of_an_annotated_module_learns_as_of_one_without():
    gradient = {
        "kernel": jnp.linspace(-1, 2, 512).reshape(16, 32),
        "bias": jnp.ones(32),
    }

    def grad(model):
        return jax.grad(
            lambda params: sum(jnp.vdot(params[k][...], gradient[k]) for k in gradient)
        )(nnx.state(model, nnx.Param))

    def trained(model):
        optimizer = nnx.Optimizer(
            model, classp_jax.classp(0.1, factored=True), wrt=nnx.Param
        )
        for _ in range(3):
            optimizer.update(model, grad(model))
        return nnx.to_pure_dict(nnx.state(model))

    with nnx.use_eager_sharding(False):
        expected = trained(Annotated())
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        chex.assert_trees_all_close(
            trained(Annotated()), expected, rtol=1e-6, atol=1e-7
        )


@pytest.mark.parametrize("box", [nn.Partitioned, nn.LogicallyPartitioned])
def test_linen_boxes_have_the_names_of_rows_and_columns(box):
    kernel = jnp.linspace(-1, 1, 16 * 32).reshape(16, 32)
    params = {"kernel": box(kernel, ("x", "y")), "bias": box(jnp.ones(32), ("y",))}
    optimizer = classp_jax.classp(0.1, factored=True)
    update = jax.jit(optimizer.update)
    updates, opt_state = update(params, optimizer.init(params), params)
    updates, opt_state = update(params, opt_state, params)
    assert update._cache_size() == 1
    specs = nn.get_partition_spec(optax.tree.get(opt_state, "grad_sum"))
    assert jax.tree.map(tuple, specs) == {
        "kernel": classp_jax.FactoredSum(rows=("x",), columns=("y",)),
        "bias": ("y",),
    }

    plain = nn.meta.unbox(params)
    plain_state = optimizer.init(plain)
    for _ in range(2):
        expected, plain_state = update(plain, plain_state, plain)
    chex.assert_trees_all_equal_structs(updates, params)
    chex.assert_trees_all_equal(nn.meta.unbox(updates), expected)
    chex.assert_trees_all_equal(
        *(
            classp_jax.average_grad_sum(s, per_tensor=True)
            for s in (opt_state, plain_state)
        )
    )


@all_readings
def test_linen_train_state(reading):
    model = nn.Dense(4)
    variables = model.init(jax.random.key(0), INPUTS)
    state = train_state.TrainState.create(
        apply_fn=model.apply, params=variables["params"], tx=make(reading)
    )

    @jax.jit
    def step(state):
        def loss(params):
            return jnp.mean((state.apply_fn({"params": params}, INPUTS) - TARGETS) ** 2)

        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    for _ in range(5):
        state = step(state)
    expected, _ = train(make(reading), dict(variables["params"]))
    chex.assert_trees_all_close(dict(state.params), expected, rtol=1e-5)


@all_readings
def test_equinox_module_filtered_to_arrays(reading):
    model = start = eqx.nn.MLP(3, 4, width_size=5, depth=1, key=jax.random.key(0))
    optimizer = make(reading, eps=1.0)
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, opt_state):
        grads = eqx.filter_grad(
            lambda model: jnp.mean((jax.vmap(model)(INPUTS) - TARGETS) ** 2)
        )(model)
        updates, opt_state = optimizer.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state

    arrays, static = eqx.partition(model, eqx.is_inexact_array)

    @jax.jit
    def plain_step(arrays, opt_state):
        def loss(arrays):
            model = eqx.combine(arrays, static)
            return jnp.mean((jax.vmap(model)(INPUTS) - TARGETS) ** 2)

        updates, opt_state = optimizer.update(jax.grad(loss)(arrays), opt_state)
        return optax.apply_updates(arrays, updates), opt_state

    plain_state = opt_state
    for _ in range(5):
        model, opt_state = step(model, opt_state)
        arrays, plain_state = plain_step(arrays, plain_state)
    chex.assert_trees_all_close(
        eqx.filter(model, eqx.is_inexact_array), arrays, rtol=1e-5
    )
    assert jnp.any(arrays.layers[0].weight != start.layers[0].weight)


# Below p = 1 the steps along a constant gradient have a finite sum: there is no rate
# that reaches every minimum.
@pytest.mark.parametrize(
    ("power", "learning_rate"), [(1.0, 3.0), (1.5, 1.0), (2.0, 1.0), (3.0, 0.3)]
)
@all_readings
def test_quadratic_converges(reading, power, learning_rate):
    curvature, target = jnp.array([1.0, 2.0, 0.5]), jnp.array([1.0, -2.0, 3.0])
    optimizer = OPTIMIZERS[reading](learning_rate, power=power, eps=1.0)

    @jax.jit
    def run(params):
        def step(_, carry):
            params, opt_state = carry
            grads = 2 * curvature * (params - target)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        carry = params, optimizer.init(params)
        return jax.lax.fori_loop(0, 2000, step, carry)[0]

    chex.assert_trees_all_close(run(jnp.zeros(3)), target, rtol=1e-5)


def after_steps(optimizer, grads, steps=50):
    """Parameters from 1 on and the state, of the same gradients at each step."""
    params = {"used": jnp.ones(3), "unused": jnp.ones(3)}

    @jax.jit
    def step(params, opt_state):
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    opt_state = optimizer.init(params)
    for _ in range(steps):
        params, opt_state = step(params, opt_state)
    return params, opt_state


@pytest.mark.parametrize("unused", [0.0, 1e-3, np.nan], ids=["0", "masked", "NaN"])
@pytest.mark.parametrize("apply_decay", [True, False])
@all_readings
def test_weight_decay_behind_shrinks_each_weight_and_leaves_the_sums(
    reading, apply_decay, unused
):
    if reading == "released" and unused:
        pytest.skip("Its threshold is inert, and NaN is kept.")
    optimizer = make(reading, apply_decay=apply_decay, eps=1.0)
    decayed = optax.chain(optimizer, optax.add_decayed_weights(-0.1 * 0.01))
    grads = {"used": jnp.full(3, 0.5), "unused": jnp.full(3, unused)}
    expected, expected_state = after_steps(optimizer, grads)
    actual, opt_state = after_steps(decayed, grads)
    chex.assert_trees_all_equal(opt_state[0], expected_state)
    shrunk = (1 - 0.1 * 0.01) ** 50
    chex.assert_trees_all_close(actual["unused"], jnp.full(3, shrunk), rtol=1e-5)
    assert expected["unused"].tolist() == [1, 1, 1]
    # The used ones make the same steps, and shrink besides.
    assert jnp.all(actual["used"] != expected["used"])


def test_weight_decay_behind_follows_a_schedule_and_reaches_what_it_is_for():
    rates = optax.piecewise_constant_schedule(0.1, {30: 0.5})
    optimizer = optax.chain(
        classp_jax.classp(rates),
        optax.add_decayed_weights(
            lambda step: -rates(step) * 0.01, {"used": False, "unused": True}
        ),
    )
    grads = {"used": jnp.full(3, 0.5), "unused": jnp.zeros(3)}
    actual, _ = after_steps(optimizer, grads)
    shrunk = (1 - 0.1 * 0.01) ** 30 * (1 - 0.05 * 0.01) ** 20
    chex.assert_trees_all_close(actual["unused"], jnp.full(3, shrunk), rtol=1e-5)
    plain, _ = after_steps(classp_jax.classp(rates), grads)
    chex.assert_trees_all_equal(actual["used"], plain["used"])
    # A weight without a gradient, None, takes no step of either.
    params = {"used": jnp.ones(3), "unused": jnp.ones(3)}
    updates, _ = optimizer.update(
        grads | {"unused": None}, optimizer.init(params), params
    )
    assert updates["unused"] is None


def test_weight_decay_in_front_is_divided_by_its_own_sum():
    """As README warns, whatever the decay."""
    for decay in (1e-4, 1e-2):
        optimizer = optax.chain(
            optax.add_decayed_weights(decay), classp_jax.classp(0.1)
        )
        grads = {"used": jnp.zeros(3), "unused": jnp.zeros(3)}
        params, opt_state = after_steps(optimizer, grads)
        np.testing.assert_allclose(params["unused"], 0.6, atol=0.03)
        assert classp_jax.unassigned_share(opt_state) == 0
