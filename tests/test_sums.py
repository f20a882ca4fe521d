"""The sums of rows and columns in place of a sum for each weight."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import classp_jax
from classp_jax import _sums
from classp_jax._sums import is_factored
from tests import helpers

pytestmark = pytest.mark.usefixtures("few_compiled_functions")

SHAPES = {"matrix": (5, 7), "kernel": (3, 3, 2, 4), "bias": (4,), "scalar": ()}
STEPS = 30


def random_tree(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32)
        for name, shape in shapes.items()
    }


def run(optimizer, gradients, params=None):
    params = gradients[0] if params is None else params
    opt_state, update = optimizer.init(params), jax.jit(optimizer.update)
    for gradient in gradients:
        updates, opt_state = update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
    return params, opt_state


def rows_and_columns(opt_state):
    """Of each tensor that is factored, and the whole sum of each other."""
    sums = optax.tree.get(opt_state, "grad_sum")
    rows = jax.tree.map(
        lambda s: s[0] if is_factored(s) else s, sums, is_leaf=is_factored
    )
    columns = jax.tree.map(
        lambda s: s[1] if is_factored(s) else (), sums, is_leaf=is_factored
    )
    return rows, columns


@pytest.mark.parametrize("threshold", [0.0, 0.5])
@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("reading", ["algorithm1", "equation1"])
def test_rows_and_columns_have_the_sums_of_the_full_accumulator(
    reading, power, threshold
):
    gradients = [random_tree(seed) for seed in range(STEPS)]
    make = helpers.READINGS[reading]
    _, of_full_state = run(make(0.1, threshold, power=power), gradients)
    full = optax.tree.get(of_full_state, "grad_sum")
    _, opt_state = run(make(0.1, threshold, power=power, factored=True), gradients)
    grad_sum, column_sum = rows_and_columns(opt_state)
    for name, s in full.items():
        if s.ndim > 1:
            chex.assert_trees_all_close(grad_sum[name], s.sum(-1), rtol=1e-6)
            columns = s.reshape(-1, s.shape[-1]).sum(0)
            chex.assert_trees_all_close(column_sum[name], columns, rtol=1e-6)
        else:
            chex.assert_trees_all_equal(grad_sum[name], s)
    for per_tensor in (False, True):
        of_full, of_factored = (
            classp_jax.average_grad_sum(state, per_tensor=per_tensor)
            for state in (of_full_state, opt_state)
        )
        chex.assert_trees_all_close(of_factored, of_full, rtol=1e-6)


def test_the_share_without_a_gradient_is_that_of_rows_and_columns():
    def partly(g):
        return g.at[0].set(0).at[..., -1].set(0) if g.ndim > 1 else g

    gradients = [jax.tree.map(partly, random_tree(seed)) for seed in range(3)]
    full, factored = (
        classp_jax.unassigned_share(
            run(classp_jax.classp(0.1, factored=factored), gradients)[1],
            per_tensor=True,
        )
        for factored in (False, True)
    )
    assert full["matrix"] == pytest.approx(1 - 4 * 6 / 35)
    chex.assert_trees_all_close(factored, full, rtol=1e-6)


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("reading", ["algorithm1", "equation1"])
def test_where_rows_are_in_proportion_it_is_the_full_accumulator(reading, power):
    rows, columns = jnp.linspace(0.1, 2, 5), jnp.linspace(-1, 3, 7)
    gradients = [
        {"matrix": jnp.outer(rows, columns) * factor, "bias": columns}
        for factor in np.random.default_rng(0).normal(size=STEPS)
    ]
    make = helpers.READINGS[reading]
    kwargs = dict(power=power, eps=1e-2, apply_decay=lambda step: step >= 10)
    expected, _ = run(make(0.1, **kwargs), gradients)
    actual, _ = run(make(0.1, factored=True, **kwargs), gradients)
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_the_first_step_divides_nothing_by_nothing():
    optimizer = classp_jax.classp(0.1, factored=True)
    params = jnp.ones((8, 6))
    with jax.debug_nans(True):
        optimizer.update(params, optimizer.init(params), params)


def test_the_first_step_is_that_of_the_full_accumulator():
    gradient = random_tree(0)
    params, _ = run(classp_jax.classp(0.1, factored=True), [gradient])
    expected, _ = run(classp_jax.classp(0.1), [gradient])
    chex.assert_trees_all_equal(params, expected)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 3), ((2,), (3,))),
        ((3, 3, 2, 4), ((3, 3, 2), (4,))),
        # As many numbers, or more, as there are weights.
        ((2, 2), ((2, 2),)),
        ((1, 9), ((1, 9),)),
        ((9, 1), ((9, 1),)),
        ((9,), ((9,),)),
        ((), ((),)),
        ((0, 5), ((0, 5),)),
    ],
)
def test_a_tensor_is_factored_where_that_is_shorter(shape, expected):
    opt_state = classp_jax.classp(0.1, factored=True).init(jnp.zeros(shape))
    sums = jax.tree.leaves(optax.tree.get(opt_state, "grad_sum"))
    assert tuple(s.shape for s in sums) == expected


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_what_is_not_finite_is_as_if_it_had_not_been(bad, power, threshold):
    gradients = [random_tree(seed) for seed in range(STEPS)]
    rng = np.random.default_rng(0)
    hit = [
        {name: rng.random(shape) < 0.2 for name, shape in SHAPES.items()}
        for _ in gradients
    ]
    with_bad, without = (
        [
            jax.tree.map(lambda g, h, x=x: jnp.where(h, x, g), *pair)
            for pair in zip(gradients, hit, strict=True)
        ]
        for x in (bad, 0.0)
    )
    params = random_tree(STEPS)
    optimizer = classp_jax.classp(0.1, threshold, power=power, factored=True)
    chex.assert_trees_all_equal(
        *(run(optimizer, stream, params) for stream in (with_bad, without))
    )


@pytest.mark.parametrize("accumulator_dtype", [None, jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_sums_stay_finite_and_never_decrease(power, accumulator_dtype):
    """With gradients whose powers, or the sums of these, overflow."""
    optimizer = classp_jax.classp(
        0.1, power=power, factored=True, accumulator_dtype=accumulator_dtype
    )
    params = random_tree(0)
    opt_state = optimizer.init(params)
    before = list(rows_and_columns(opt_state))
    for exponent in (0, 4, 15, 18, 19, 25, 38, -20, -38, 0, 38, 0):
        gradients = jax.tree.map(lambda p, e=exponent: p * 10.0**e, params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        after = list(rows_and_columns(opt_state))
        chex.assert_tree_all_finite((updates, after))
        jax.tree.map(
            lambda s, t: chex.assert_trees_all_equal(t >= s, s == s), *[before, after]
        )
        before = after
    assert np.all(after[0]["matrix"] > 0)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_the_sums_are_in_float32(dtype):
    params = jax.tree.map(lambda p: p.astype(dtype), random_tree(0))
    updates, opt_state = classp_jax.classp(0.1, factored=True).update(
        params, classp_jax.classp(0.1, factored=True).init(params), params
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    assert {s.dtype for s in jax.tree.leaves(list(rows_and_columns(opt_state)))} == {
        jnp.dtype(jnp.float32)
    }


@pytest.mark.parametrize(
    ("power", "threshold", "relative", "seeds"),
    [
        (1.0, 0.0, False, None),
        (1.0, 1.0, True, 3),
        (1.5, 0.0, False, 3),
        (2.0, 1.0, True, None),
    ],
)
def test_a_large_tensor_is_summed_in_blocks(
    power, threshold, relative, seeds, monkeypatch
):
    shapes = {"odd": (13, 7), "kernel": (3, 3, 5, 4), "wide": (3, 40), "even": (16, 8)}
    shapes = {name: (*[seeds] * bool(seeds), *x) for name, x in shapes.items()}
    gradients = random_tree(0, shapes)
    gradients = jax.tree.map(lambda g: g.at[..., 1, 2].set(jnp.inf), gradients)
    optimizer = classp_jax.classp(
        0.1, threshold, power=power, relative=relative, factored=True
    )
    init, update = (f if seeds is None else jax.vmap(f) for f in optimizer[:2])

    def step(gradients):
        updates, opt_state = update(gradients, init(gradients), gradients)
        # Of its gradient, too, as when learning to learn.
        return optax.tree.sum(
            jax.tree.map(jnp.log1p, (updates, *rows_and_columns(opt_state)))
        )

    def of_all(gradients):
        opt_state = init(gradients)
        return update(gradients, opt_state), jax.grad(step)(gradients)

    expected = jax.jit(of_all)(gradients)
    at_once = jax.jit(of_all).lower(gradients).as_text()
    monkeypatch.setattr(_sums, "BLOCK", 16)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    jax.clear_caches()
    in_blocks = jax.jit(lambda gradients: of_all(gradients))
    text = in_blocks.lower(gradients).as_text()
    assert text.count("stablehlo.while") > at_once.count("stablehlo.while")
    chex.assert_trees_all_close(in_blocks(gradients), expected, rtol=1e-5, atol=1e-6)
    jax.clear_caches()


def test_several_devices_exchange_sums_of_columns_alone(monkeypatch):
    monkeypatch.setattr(_sums, "BLOCK", 256)  # Which would be gathered.
    mesh = jax.make_mesh((8,), ("data",))
    shape = (64, 48)
    place = NamedSharding(mesh, PartitionSpec("data", None))
    optimizer = classp_jax.classp(0.1, factored=True)
    params = jax.device_put(random_tree(0, {"w": shape}), place)
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, opt_state, grads):
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    text = step.lower(params, opt_state, params).compile().as_text()
    sent = re.findall(
        r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute)\(", text
    )
    assert {operation for _, operation in sent} == {"all-reduce"}
    sizes = [
        int(np.prod([int(n or 1) for n in array.split(",")]))
        for result, _ in sent
        for array in re.findall(r"f32\[([\d,]*)\]", result)
    ]
    assert max(sizes) == shape[1]


WEIGHTS = {
    "matrix": ((16, 32), ("x", "y")),
    "columns": ((16, 32), (None, "y")),
    "rows": ((16, 32), ("x",)),
    "rows, in full": ((16, 32), ("x", None)),
    "both": ((16, 32), (("y", "x"),)),
    "kernel": ((3, 3, 8, 16), (None, None, None, "x")),
    "middle": ((4, 16, 32), (None, "x", None)),
    "ends": ((8, 16, 32), ("x", None, "y")),
    "nowhere": ((16, 32), ()),
    "nowhere, in full": ((16, 32), (None, None)),
}


def placed_weight(name, axis_type, mesh_shape=(4, 2)):
    shape, spec = WEIGHTS[name]
    mesh = jax.make_mesh(mesh_shape, ("x", "y"), axis_types=(axis_type,) * 2)
    place = NamedSharding(mesh, PartitionSpec(*spec))
    return jax.device_put(jnp.ones(shape), place)


def abstract(params):
    return jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=p.sharding), params
    )


def assert_lies_as(s, weight):
    of_rows, of_columns = s.partition_specs(weight.sharding.spec)
    for part, spec in ((s.rows, of_rows), (s.columns, of_columns)):
        expected = NamedSharding(weight.sharding.mesh, spec)
        assert part.sharding.is_equivalent_to(expected, part.ndim)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("how", ["concrete", "abstract", "compiled"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_rows_and_columns_lie_where_the_tensor_does(name, how, axis_type):
    params = placed_weight(name, axis_type)
    optimizer = classp_jax.classp(0.1, factored=True)
    if how == "compiled":
        opt_state = jax.jit(optimizer.init)(params)
    else:
        opt_state = optimizer.init(params if how == "concrete" else abstract(params))
    assert_lies_as(optax.tree.get(opt_state, "grad_sum"), params)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_where_the_state_will_lie_is_known_without_making_it(axis_type):
    params = placed_weight("matrix", axis_type)
    optimizer = classp_jax.classp(0.1, factored=True)
    compiled = jax.jit(optimizer.init).lower(abstract(params)).compile()
    place = optax.tree.get(compiled.output_shardings, "grad_sum")
    assert (place.rows.spec, place.columns.spec) == (
        PartitionSpec("x"),
        PartitionSpec("y"),
    )


def test_a_weight_on_another_device_has_its_sums_there():
    device = jax.devices()[3]
    params = jax.device_put(jnp.ones((8, 6)), device)
    opt_state = classp_jax.classp(0.1, factored=True).init(params)
    for s in jax.tree.leaves(optax.tree.get(opt_state, "grad_sum")):
        assert s.devices() == {device}


def test_partition_specs_shorter_than_the_tensor_leave_the_columns_whole():
    s = _sums.FactoredSum(jnp.zeros((4, 8)), jnp.zeros(6))
    rows, columns = s.partition_specs(PartitionSpec("x"))
    assert tuple(rows) == ("x", None) and tuple(columns) == (None,)


def test_map_params_refuses_what_belongs_to_the_whole_tensor():
    params = {"w": jnp.ones((16, 32)), "b": jnp.ones(32)}
    specs = {"w": PartitionSpec("x"), "b": PartitionSpec()}
    optimizer = classp_jax.classp(0.1, factored=True)
    abstract_state = jax.eval_shape(optimizer.init, params)

    def spec_of(s, spec):
        return s.partition_specs(spec) if is_factored(s) else spec

    # JAX 0.5.3 doesn't say of which one.
    with pytest.raises(ValueError, match="FactoredSum|Expected named tuple"):
        optax.tree.map_params(optimizer, lambda s, spec: spec, abstract_state, specs)
    mapped = optax.tree.map_params(
        optimizer, spec_of, abstract_state, specs, is_leaf=is_factored
    )
    rows, columns = optax.tree.get(mapped, "grad_sum")["w"]
    assert tuple(rows) == ("x",) and tuple(columns) == (None,)


def cache_size(optimizer, params):
    """The number of programs of three steps of training."""

    @jax.jit
    def step(params, opt_state):
        updates, opt_state = optimizer.update(params, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    carry = params, optimizer.init(params)
    for _ in range(3):
        carry = step(*carry)
    return step._cache_size()


# The whole sum, too, compiles twice where the parameters come back spelled otherwise:
# over explicit axes all that are not spelled in full, as these are.
@pytest.mark.parametrize(
    ("axis_type", "name"),
    [
        *((AxisType.Auto, name) for name in WEIGHTS),
        *(
            (AxisType.Explicit, name)
            for name, (shape, spec) in WEIGHTS.items()
            if len(shape) == len(spec)
        ),
    ],
)
@pytest.mark.parametrize("mesh_shape", [(4, 2), (8, 1)])
def test_a_second_step_does_not_compile_again(axis_type, name, mesh_shape):
    params = placed_weight(name, axis_type, mesh_shape)
    assert cache_size(classp_jax.classp(0.1, factored=True), params) == 1


def test_a_bias_spelled_in_full_does_not_make_it_compile_again():
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    params = {
        "bias": jax.device_put(jnp.ones(32), NamedSharding(mesh, PartitionSpec(None))),
        "kernel": placed_weight("columns", AxisType.Auto),
    }
    assert cache_size(classp_jax.classp(0.1), params) == 1
    assert cache_size(classp_jax.classp(0.1, factored=True), params) == 1


def test_vmap_over_seeds_is_each_seed():
    optimizer = classp_jax.classp(0.1, factored=True)
    seeds = [[random_tree(10 * seed + step) for step in range(3)] for seed in range(2)]
    expected = [run(optimizer, gradients) for gradients in seeds]

    def stacked(*trees):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    params = stacked(*(gradients[0] for gradients in seeds))
    opt_state = jax.vmap(optimizer.init)(params)
    for step in range(3):
        gradients = stacked(*(gradients[step] for gradients in seeds))
        updates, opt_state = jax.vmap(optimizer.update)(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
    chex.assert_trees_all_close((params, opt_state), stacked(*expected), rtol=1e-6)
    # Its means are over all seeds', as with the full accumulator.
    means = [classp_jax.average_grad_sum(opt_state) for _, opt_state in expected]
    chex.assert_trees_all_close(
        classp_jax.average_grad_sum(opt_state), sum(means) / 2, rtol=1e-6
    )


def test_the_share_without_a_gradient_is_the_mean_of_stacked_seeds():
    optimizer = classp_jax.classp(0.1, factored=True)
    gradients = jnp.stack([jnp.ones((8, 6)), jnp.zeros((8, 6)), jnp.eye(8, 6)])
    opt_state = jax.vmap(optimizer.init)(gradients)
    _, opt_state = jax.vmap(optimizer.update)(gradients, opt_state)
    expected = (0 + 1 + 1 - 6 / 8) / 3
    assert classp_jax.unassigned_share(opt_state) == pytest.approx(expected)


@pytest.mark.parametrize("nonsense", [1, "yes", None, jnp.asarray(True)])
def test_only_a_bool_says_so(nonsense):
    with pytest.raises(TypeError, match="factored must be True or False"):
        classp_jax.classp(0.1, factored=nonsense)


@pytest.mark.parametrize("reading", ["algorithm1", "equation1"])
def test_a_row_that_saturates_leaves_the_others_their_sums_and_steps(reading):
    gradient = jnp.full((64, 64), 1e-3).at[0].set(100.0)
    rows, steps = [], []
    for dtype in (jnp.float16, jnp.float32):
        optimizer = helpers.READINGS[reading](
            0.1, eps=1.0, factored=True, accumulator_dtype=dtype
        )
        opt_state, update = optimizer.init(gradient), jax.jit(optimizer.update)
        for _ in range(100):
            updates, opt_state = update(gradient, opt_state)
        rows.append(np.float32(optax.tree.get(opt_state, "grad_sum").rows))
        steps.append(np.abs(updates))
    assert rows[0][0] == 65504 and rows[1][0] == pytest.approx(640_000, rel=1e-4)
    np.testing.assert_allclose(rows[0][1:], rows[1][1:], rtol=0.01)
    # Not longer than with exact sums, by more than what float16 rounds.
    assert np.all(steps[0] <= 1.02 * steps[1])


def test_sums_whose_total_overflows_say_what_they_are_of():
    rows, columns = jnp.array([3e38, 1e38]), jnp.full(4, 1e38)
    of_each = _sums.of_each_weight(_sums.FactoredSum(rows, columns))
    expected = np.outer([0.75, 0.25], np.full(4, 1e38))
    np.testing.assert_allclose(of_each, expected, rtol=1e-6)
