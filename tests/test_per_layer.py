"""Layers stacked in one tensor, against each layer by itself."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import classp_jax
from classp_jax import interop
from tests import helpers

pytestmark = pytest.mark.usefixtures("few_compiled_functions")

LAYERS, STEPS = 4, 3
SIZES = jnp.array([1e-3, 1.0, 1e3, 10.0])  # Of the layers' gradients.
OPTIMIZERS = {
    "relative": lambda: classp_jax.classp(0.1, 1.0, relative=True),
    "factored": lambda: classp_jax.classp(0.1, factored=True),
    "both": lambda: classp_jax.classp_equation1(
        0.1, 1.0, eps=1.0, relative=True, factored=True
    ),
    "released": lambda: classp_jax.classp_released(0.1),
    "schedules": lambda: classp_jax.classp(
        0.1, lambda step: 0.5 * step, apply_decay=lambda step: step > 0, relative=True
    ),
    "injected": lambda: optax.inject_hyperparams(
        classp_jax.classp, static_args=("power", "relative")
    )(0.1, 1.0, relative=True),
}
every_optimizer = pytest.mark.parametrize(
    "make", OPTIMIZERS.values(), ids=list(OPTIMIZERS)
)


def stacks(seed):
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (LAYERS, 24, 16), "bias": (LAYERS, 16)}
    return {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32)
        * SIZES.reshape(-1, *[1] * (len(shape) - 1))
        for name, shape in shapes.items()
    }


GRADIENTS = [stacks(seed) for seed in range(STEPS)]


def trained(optimizer, gradients, params, opt_state=None):
    @jax.jit
    def step(params, opt_state, grads):
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    opt_state = optimizer.init(params) if opt_state is None else opt_state
    for grads in gradients:
        params, opt_state = step(params, opt_state, grads)
    assert step._cache_size() == 1
    return params, opt_state


def one_by_one(optimizer):
    """Parameters and state of each layer, stacked."""
    layers = [
        trained(optimizer, gradients, gradients[0])
        for gradients in (
            [jax.tree.map(lambda g, i=i: g[i], grads) for grads in GRADIENTS]
            for i in range(LAYERS)
        )
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)


@every_optimizer
def test_a_stack_is_as_its_layers_one_by_one(make):
    actual = trained(classp_jax.per_layer(make()), GRADIENTS, GRADIENTS[0])
    chex.assert_trees_all_close(actual, one_by_one(make()), rtol=1e-5)


@pytest.mark.parametrize("name", ["relative", "factored", "both"])
def test_without_it_the_stack_is_one_tensor(name):
    optimizer = OPTIMIZERS[name]()
    as_one, _ = trained(optimizer, GRADIENTS, GRADIENTS[0])
    expected, _ = one_by_one(optimizer)
    difference = jnp.abs(as_one["kernel"] - expected["kernel"]).max((1, 2))
    assert jnp.any(difference > 0.01 * SIZES)


@pytest.mark.parametrize(
    "axis_type",
    [
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
@pytest.mark.parametrize("how", ["concrete", "abstract", "compiled"])
@pytest.mark.parametrize(
    ("kernel", "bias", "columns"),
    [
        (("layer", None, "x"), ("layer", "x"), ("layer", "x")),
        ((None, "x"), (), (None, None)),
    ],
)
def test_the_state_of_a_stack_lies_where_the_stack_does(
    kernel, bias, columns, how, axis_type
):
    mesh = jax.make_mesh((4, 2), ("layer", "x"), axis_types=(axis_type,) * 2)
    place = {
        "kernel": NamedSharding(mesh, PartitionSpec(*kernel)),
        "bias": NamedSharding(mesh, PartitionSpec(*bias)),
    }
    optimizer = classp_jax.per_layer(OPTIMIZERS["both"]())
    params, *gradients = jax.device_put([GRADIENTS[0], *GRADIENTS], [place] * 4)
    if how == "compiled":
        opt_state = jax.jit(optimizer.init)(params)
    elif how == "abstract":
        opt_state = optimizer.init(
            jax.tree.map(
                lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=p.sharding),
                params,
            )
        )
    else:
        opt_state = optimizer.init(params)
    grad_sum = optax.tree.get(opt_state, "grad_sum")
    of_parts = grad_sum["kernel"].partition_specs(PartitionSpec(*kernel))
    assert tuple(of_parts.columns) == columns
    for s, spec in (
        (grad_sum["kernel"].rows, of_parts.rows),
        (grad_sum["kernel"].columns, of_parts.columns),
        (grad_sum["bias"], PartitionSpec(*bias)),
    ):
        assert s.sharding.is_equivalent_to(NamedSharding(mesh, spec), s.ndim)
    if axis_type is AxisType.Auto or kernel[0]:  # Others come back spelled otherwise.
        actual = trained(optimizer, gradients, params, opt_state)
        chex.assert_trees_all_close(actual, one_by_one(OPTIMIZERS["both"]()), rtol=1e-5)


def test_partition_tells_stacks_from_single_tensors():
    rng = np.random.default_rng(STEPS)
    heads = [jnp.asarray(rng.normal(size=(16, 3)), jnp.float32) for _ in range(STEPS)]
    make = OPTIMIZERS["both"]
    optimizer = optax.partition(
        {"stacked": classp_jax.per_layer(make()), "single": make()},
        {"layers": "stacked", "head": "single"},
    )
    gradients = [
        {"layers": layers, "head": head}
        for layers, head in zip(GRADIENTS, heads, strict=True)
    ]
    params, _ = trained(optimizer, gradients, gradients[0])
    expected = {
        "layers": one_by_one(make())[0],
        "head": trained(make(), heads, heads[0])[0],
    }
    chex.assert_trees_all_close(params, expected, rtol=1e-5)
    # A group of which there is nothing.
    optimizer = optax.partition(
        {"stacked": classp_jax.per_layer(make()), "single": make()}, "single"
    )
    params, _ = trained(optimizer, heads, heads[0])
    chex.assert_trees_all_close(params, expected["head"], rtol=1e-5)


def test_a_value_injected_around_it_holds_for_all_layers():
    @optax.inject_hyperparams
    def make(threshold):
        return classp_jax.per_layer(
            classp_jax.classp(0.1, threshold, relative=True, factored=True)
        )

    optimizer = make(threshold=0.0)
    opt_state = optax.tree.set(optimizer.init(GRADIENTS[0]), threshold=jnp.float32(1.0))
    actual, _ = trained(optimizer, GRADIENTS, GRADIENTS[0], opt_state)
    expected, _ = one_by_one(classp_jax.classp(0.1, 1.0, relative=True, factored=True))
    chex.assert_trees_all_close(actual, expected, rtol=1e-5)


def test_extra_arguments_and_a_missing_gradient_are_handed_on():
    def update_fn(updates, state, params=None, *, value):
        assert params is None
        return jax.tree.map(lambda g: g + value, updates), state

    inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)
    optimizer = classp_jax.per_layer(inner)
    updates = {"kernel": jnp.ones((LAYERS, 2)), "bias": None}
    actual, _ = optimizer.update(updates, optimizer.init(updates), value=2.0)
    chex.assert_trees_all_equal(
        actual, {"kernel": jnp.full((LAYERS, 2), 3.0), "bias": None}
    )

    optimizer = classp_jax.per_layer(OPTIMIZERS["both"]())
    opt_state = optimizer.init(GRADIENTS[0])
    updates, new = optimizer.update({**GRADIENTS[0], "kernel": None}, opt_state)
    assert updates["kernel"] is None
    chex.assert_trees_all_equal(
        *(optax.tree.get(s, "grad_sum")["kernel"] for s in (opt_state, new))
    )


def test_map_params_maps_the_sums():
    optimizer = classp_jax.per_layer(OPTIMIZERS["factored"]())
    opt_state = optimizer.init(GRADIENTS[0])
    raised = optax.tree.map_params(optimizer, lambda s: s + 2, opt_state)
    expected = jax.tree.map(lambda s: s + 2, optax.tree.get(opt_state, "grad_sum"))
    chex.assert_trees_all_equal(optax.tree.get(raised, "grad_sum"), expected)


@pytest.mark.parametrize(
    "params", [{"a": jnp.ones((3, 2)), "b": jnp.ones((4, 2))}, {"a": jnp.float32(1)}]
)
def test_tensors_that_are_no_stacks_of_as_many_layers_are_refused(params):
    optimizer = classp_jax.per_layer(OPTIMIZERS["relative"]())
    with pytest.raises(ValueError, match="vmap"):
        optimizer.init(params)
    with pytest.raises(TypeError, match="inner must be"):
        classp_jax.per_layer("classp")


def test_diagnostics_are_those_of_all_layers():
    layers = [jax.tree.map(lambda g, i=i: g[i], GRADIENTS[0]) for i in range(LAYERS)]
    layers[0] = jax.tree.map(jnp.zeros_like, layers[0])
    gradients = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    inner = OPTIMIZERS["factored"]()
    optimizer = classp_jax.per_layer(inner)
    updates, opt_state = optimizer.update(gradients, optimizer.init(gradients))
    states = [inner.update(g, inner.init(g))[1] for g in layers]
    for diagnostic in (classp_jax.average_grad_sum, classp_jax.unassigned_share):
        for per_tensor in (False, True):
            each = [diagnostic(s, per_tensor=per_tensor) for s in states]
            mean = jax.tree.map(lambda *x: sum(x) / LAYERS, *each)
            actual = diagnostic(opt_state, per_tensor=per_tensor)
            chex.assert_trees_all_close(actual, mean, rtol=1e-5)
    assert classp_jax.update_density(updates) == pytest.approx(1 - 1 / LAYERS)


def test_a_sum_put_into_it_is_what_each_layer_makes_of_its_own():
    inner = OPTIMIZERS["factored"]()
    optimizer = classp_jax.per_layer(inner)
    sums = jax.tree.map(lambda g: jnp.abs(g) + 1, GRADIENTS[0])
    actual = interop.with_grad_sum(optimizer.init(sums), sums)
    layers = [jax.tree.map(lambda s, i=i: s[i], sums) for i in range(LAYERS)]
    expected = [interop.with_grad_sum(inner.init(s), s) for s in layers]
    chex.assert_trees_all_close(
        actual, jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected), rtol=1e-6
    )
    of_each_weight = [helpers.sum_of_each_weight(s) for s in expected]
    chex.assert_trees_all_close(
        helpers.sum_of_each_weight(actual),
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *of_each_weight),
        rtol=1e-6,
    )


def test_layers_of_a_linen_scan_keep_the_names_of_their_axes():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, inputs, _):
            kernel_init = nn.with_partitioning(nn.initializers.ones, ("x", "y"))
            return nn.Dense(16, kernel_init=kernel_init)(inputs), None

    scanned = nn.scan(
        Layer,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=LAYERS,
        metadata_params={nn.PARTITION_NAME: "layer"},
    )()
    params = scanned.init(jax.random.key(0), jnp.ones((2, 16)), None)["params"]
    optimizer = classp_jax.per_layer(OPTIMIZERS["factored"]())
    updates, opt_state = optimizer.update(params, optimizer.init(params), params)
    chex.assert_trees_all_equal_structs(updates, params)
    specs = nn.get_partition_spec(optax.tree.get(opt_state, "grad_sum"))
    rows, columns = specs["Dense_0"]["kernel"]
    assert tuple(rows) == ("layer", "x") and tuple(columns) == ("layer", "y")


def test_nnx_optimizer_of_the_layers_of_a_scan():
    class Layers(nnx.Module):
        def __init__(self, rngs):
            @nnx.split_rngs(splits=LAYERS)
            @nnx.vmap(transform_metadata={nnx.PARTITION_NAME: "layer"})
            def make(rngs):
                return nnx.Linear(
                    16, 16, rngs=rngs, kernel_metadata={"out_sharding": (None, "x")}
                )

            self.linear = make(rngs)

        def __call__(self, inputs):
            @nnx.scan(
                in_axes=(nnx.Carry, 0),
                out_axes=nnx.Carry,
                transform_metadata={nnx.PARTITION_NAME: "layer"},
            )
            def forward(inputs, linear):
                return linear(inputs)

            return forward(inputs, self.linear)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(lambda m: jnp.mean(m(inputs) ** 2))(model))

    inputs = jnp.linspace(-1, 1, 8 * 16).reshape(8, 16)
    mesh = jax.make_mesh((4, 2), ("layer", "x"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        model = Layers(nnx.Rngs(0))
        before = jnp.mean(model(inputs) ** 2)
        tx = classp_jax.per_layer(
            classp_jax.classp(0.01, 0.1, relative=True, factored=True)
        )
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        for _ in range(STEPS):
            step(model, optimizer)
        assert jnp.mean(model(inputs) ** 2) < before
    state = nnx.to_pure_dict(nnx.state(optimizer.opt_state))
    sums = state[0]["inner_state"]["inner_state"]["grad_sum"]["linear"]["kernel"]
    assert tuple(sums["columns"].sharding.spec) == ("layer", "x")
    assert tuple(sums["rows"].sharding.spec) == ("layer",)
