import collections
import functools
import re

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import classp_jax

PARAMS = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((2,))}
GRADIENTS = {"kernel": jnp.array([[1.0, 2.0], [3.0, 0.0]]), "bias": jnp.array([6.0, 0])}


def kernel_only(params):
    return {name: name == "kernel" for name in params}


WRAPPED = {
    "plain": lambda tx: tx,
    "chained": lambda tx: optax.chain(optax.clip_by_global_norm(1e6), tx),
    "masked": lambda tx: optax.masked(tx, {"kernel": True, "bias": True}),
    "multi_steps": lambda tx: optax.MultiSteps(tx, 1).gradient_transformation(),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "partition": lambda tx: optax.partition(
        {"a": tx, "b": tx}, {"kernel": "a", "bias": "b"}
    ),
}


def state_after_one_step(optimizer):
    _, opt_state = optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS)
    return opt_state


@pytest.mark.parametrize("wrap", WRAPPED)
def test_found_inside_any_state(wrap):
    opt_state = state_after_one_step(WRAPPED[wrap](classp_jax.classp(0.1)))
    assert classp_jax.average_grad_sum(opt_state) == 2.0
    assert classp_jax.unassigned_share(opt_state) == pytest.approx(2 / 6)
    chex.assert_trees_all_equal(
        classp_jax.average_grad_sum(opt_state, per_tensor=True),
        {"kernel": jnp.float32(1.5), "bias": jnp.float32(3)},
    )
    chex.assert_trees_all_equal(
        classp_jax.unassigned_share(opt_state, per_tensor=True),
        {"kernel": jnp.float32(0.25), "bias": jnp.float32(0.5)},
    )


def test_found_inside_injected_state():
    make = optax.inject_hyperparams(classp_jax.classp, static_args="power")
    assert classp_jax.average_grad_sum(state_after_one_step(make(0.1))) == 2.0


def test_masked_out_tensors_do_not_count():
    optimizer = optax.masked(classp_jax.classp(0.1), kernel_only)
    opt_state = state_after_one_step(optimizer)
    assert classp_jax.average_grad_sum(opt_state) == 1.5
    per_tensor = classp_jax.average_grad_sum(opt_state, per_tensor=True)
    assert list(per_tensor) == ["kernel"]


def test_two_accumulators_in_one_chain_are_both_reported():
    scale = classp_jax.scale_by_accumulated_power_norm()
    opt_state = optax.chain(scale, scale).init(jnp.ones(3))
    assert len(classp_jax.average_grad_sum(opt_state, per_tensor=True)) == 2


def test_states_without_an_accumulator_are_an_error():
    with pytest.raises(ValueError, match="no CLASSP accumulator"):
        classp_jax.average_grad_sum(optax.adam(0.1).init(PARAMS))


def test_an_error_names_the_states_that_are_there_and_not_their_trees():
    many = {f"layer_{i}": jnp.ones(2) for i in range(99)}
    opt_state = optax.adam(0.1).init(many)
    with pytest.raises(ValueError) as info:
        classp_jax.average_grad_sum(opt_state)
    assert "holds EmptyState, ScaleByAdamState" in f"{info.value}"
    assert "layer_7" not in f"{info.value}"
    with pytest.raises(ValueError, match="holds no state"):
        classp_jax.average_grad_sum(many)


@pytest.mark.parametrize("rank", [None, 2])
def test_the_error_for_sums_of_directions_says_where_they_are(rank):
    optimizer = classp_jax.classp_gram(0.1, rank=rank)
    gradient = {"kernel": jnp.arange(12.0).reshape(4, 3)}
    _, opt_state = optimizer.update(gradient, optimizer.init(gradient))
    with pytest.raises(ValueError, match="per direction, not per weight") as info:
        classp_jax.average_grad_sum(opt_state)
    (expression,) = re.findall(r"optax.tree.get\(.*?\)", f"{info.value}")
    gram = eval(expression, {"optax": optax, "opt_state": opt_state})["kernel"]
    trace = gram.trace if rank else jnp.trace(gram[0])
    assert trace == pytest.approx(float(jnp.sum(gradient["kernel"] ** 2)))


def test_tensors_whose_paths_print_alike_are_all_counted():
    params = {"a.b": jnp.ones(2), "a": {"b": jnp.ones(2)}}
    optimizer = classp_jax.classp(0.1)
    grads = {"a.b": jnp.full(2, 10.0), "a": {"b": jnp.full(2, 1.0)}}
    _, opt_state = optimizer.update(grads, optimizer.init(params))
    assert classp_jax.average_grad_sum(opt_state) == 5.5
    assert len(classp_jax.average_grad_sum(opt_state, per_tensor=True)) == 2


def test_means_of_a_bfloat16_sum_are_float32():
    optimizer = classp_jax.classp(0.1, accumulator_dtype=jnp.bfloat16)
    _, opt_state = optimizer.update(PARAMS, optimizer.init(PARAMS))
    means = classp_jax.average_grad_sum(opt_state, per_tensor=True)
    assert all(mean.dtype == jnp.float32 for mean in means.values())


def test_a_field_named_value_keeps_its_name_beside_others():
    attention = collections.namedtuple("Attention", "query key value")
    params = {"attention": attention(*jnp.ones((3, 2)))}
    assert list(classp_jax.update_density(params, per_tensor=True)) == [
        f"attention.{name}" for name in attention._fields
    ]
    alone = {"attention": attention(optax.MaskedNode(), None, jnp.ones(2))}
    assert list(classp_jax.update_density(alone, per_tensor=True)) == [
        "attention.value"
    ]
    state = nnx.State({"dense": nnx.Param(jnp.ones(2))})
    assert list(classp_jax.update_density(state, per_tensor=True)) == ["dense"]


def test_update_density():
    optimizer = classp_jax.classp(0.1, threshold=1.0)
    updates, _ = optimizer.update(GRADIENTS, optimizer.init(PARAMS))
    assert classp_jax.update_density(updates) == pytest.approx(3 / 6)
    chex.assert_trees_all_equal(
        classp_jax.update_density(updates, per_tensor=True),
        {"kernel": jnp.float32(0.5), "bias": jnp.float32(0.5)},
    )


@pytest.mark.parametrize("factored", [False, True])
def test_more_weights_than_32_bits_count(factored):
    params = {str(i): jax.ShapeDtypeStruct((50_000, 50_000), "float32") for i in (0, 1)}
    optimizer = classp_jax.classp(0.1, factored=factored)
    opt_state = jax.eval_shape(optimizer.init, params)
    for diagnostic, of in (
        (classp_jax.average_grad_sum, opt_state),
        (classp_jax.unassigned_share, opt_state),
        (classp_jax.update_density, params),
    ):
        for per_tensor in (False, True):
            measure = functools.partial(diagnostic, per_tensor=per_tensor)
            for leaf in jax.tree.leaves(jax.eval_shape(measure, of)):
                assert (leaf.shape, leaf.dtype) == ((), jnp.float32)


def test_empty_tensors_and_jit():
    params = {"empty": jnp.zeros((0, 3)), "full": jnp.ones(2)}
    optimizer = classp_jax.classp(0.1)
    opt_state = optimizer.init(params)
    share = jax.jit(classp_jax.unassigned_share, static_argnames="per_tensor")
    assert share(opt_state) == 1.0
    chex.assert_trees_all_equal(
        share(opt_state, per_tensor=True),
        {"empty": jnp.float32(0), "full": jnp.float32(1)},
    )


@pytest.mark.parametrize("jitted", [False, True])
def test_steps_with_a_gradient_that_is_not_finite_are_counted(jitted):
    solver = optax.chain(classp_jax.count_nonfinite(), classp_jax.classp(0.1))
    alone = classp_jax.classp(0.1)
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    opt_state, alone_state = solver.init(params), alone.init(params)
    update = jax.jit(solver.update) if jitted else solver.update
    for step, bad in enumerate([0.5, jnp.nan, jnp.inf, 1e38, -jnp.inf, 0.0]):
        gradient = jax.tree.map(lambda p: p * 0.1, params)
        gradient["bias"] = gradient["bias"].at[1].set(bad)
        updates, opt_state = update(gradient, opt_state, params)
        expected, alone_state = alone.update(gradient, alone_state, params)
        chex.assert_trees_all_close(updates, expected, rtol=1e-6)
        counted = optax.tree.get(opt_state, "nonfinite_count")
        assert counted == [0, 1, 2, 2, 3, 3][step] and counted.dtype == jnp.int32
    assert classp_jax.count_nonfinite().init({}).nonfinite_count == 0
