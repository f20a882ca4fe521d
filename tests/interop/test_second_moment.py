"""CLASSP's sums from the states of Adam, Adafactor and AdaGrad."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import classp_jax
from classp_jax import interop

SHAPES = {"dense": {"kernel": (3, 2), "bias": (2,)}}
PARAMS = jax.tree.map(
    lambda shape: jnp.zeros(shape), SHAPES, is_leaf=lambda x: isinstance(x, tuple)
)
STEPS = 6
RNG = np.random.default_rng(0)
GRADIENTS = [
    jax.tree.map(lambda p: np.float32(RNG.normal(size=p.shape)), PARAMS)
    for _ in range(STEPS)
]
CONSTANT = [GRADIENTS[0]] * STEPS
ADAFACTOR = functools.partial(optax.scale_by_factored_rms, min_dim_size_to_factor=2)
LAYOUT = interop.kernel_and_bias("dense")


def state_after(optimizer, gradients, params=PARAMS):
    opt_state, update = optimizer.init(params), jax.jit(optimizer.update)
    for gradient in gradients:
        _, opt_state = update(gradient, opt_state, params)
    return opt_state


def sum_of_powers(gradients, power):
    return jax.tree.map(lambda *gs: sum(np.abs(g) ** power for g in gs), *gradients)


@pytest.mark.parametrize("start", [0.0, 0.1])
def test_adagrads_sum_is_that_of_the_squares(start):
    opt_state = state_after(optax.adagrad(0.1, start), GRADIENTS)
    actual = interop.estimate_grad_sum(
        opt_state, PARAMS, power=2.0, initial_accumulator_value=start
    )
    chex.assert_trees_all_close(actual, sum_of_powers(GRADIENTS, 2), rtol=1e-6)

    # One that has had no gradient is at 0, also from 0.1 in bfloat16.
    params = jnp.zeros(3, jnp.bfloat16)
    untouched = optax.adagrad(0.1, start).init(params)
    actual = interop.estimate_grad_sum(
        untouched, params, power=2.0, initial_accumulator_value=start
    )
    assert actual.dtype == np.float32
    assert not actual.any()


@pytest.mark.parametrize(
    ("optimizer", "keywords"),
    [
        (optax.adam(0.1), {}),
        (optax.adamw(0.1, b2=0.9), {"b2": 0.9}),
        (optax.adafactor(0.1, factored=False), {}),
        (optax.adagrad(0.1, 0.0), {"initial_accumulator_value": 0.0, "steps": STEPS}),
    ],
    ids=["adam", "adamw", "adafactor", "adagrad"],
)
def test_of_constant_gradients_every_power_is_exact(optimizer, keywords):
    opt_state = state_after(optimizer, CONSTANT)
    for power in (0.5, 1.0, 2.0, 3.0):
        actual = interop.estimate_grad_sum(opt_state, PARAMS, power=power, **keywords)
        expected = sum_of_powers(CONSTANT, power)
        chex.assert_trees_all_close(actual, expected, rtol=1e-5)


def test_adams_moment_is_exactly_a_sum_that_forgets():
    b2 = 0.8
    opt_state = state_after(optax.adam(0.1, b2=b2), GRADIENTS)
    steps = (1 - b2**STEPS) / (1 - b2)
    actual = interop.estimate_grad_sum(opt_state, PARAMS, power=2.0, steps=steps, b2=b2)
    forgetting = [
        jax.tree.map(lambda g, t=t: b2 ** ((STEPS - 1 - t) / 2) * g, gradient)
        for t, gradient in enumerate(GRADIENTS)
    ]
    chex.assert_trees_all_close(actual, sum_of_powers(forgetting, 2), rtol=1e-5)
    # By default it is the moment, corrected, of all steps.
    actual = interop.estimate_grad_sum(opt_state, PARAMS, power=1.0, b2=b2)
    corrected = optax.tree.bias_correction(
        optax.tree.get(opt_state, "nu"), b2, jnp.asarray(STEPS)
    )
    expected = jax.tree.map(lambda nu: STEPS * np.sqrt(nu), corrected)
    chex.assert_trees_all_close(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("power", [1.0, 1.5, 3.0])
def test_no_gradients_of_these_squares_have_a_larger_sum(power):
    """Nor a smaller one above 2."""
    opt_state = state_after(optax.adagrad(0.1, 0.0), GRADIENTS)
    actual = interop.estimate_grad_sum(
        opt_state, PARAMS, power=power, steps=STEPS, initial_accumulator_value=0.0
    )
    ratio = jax.tree.map(np.divide, actual, sum_of_powers(GRADIENTS, power))
    farther = jax.tree.leaves(jax.tree.map(lambda r: (r > 1) == (power < 2), ratio))
    assert np.all(np.concatenate(farther, axis=None))

    # A gradient in one step of a hundred: 0.1 of the estimate.
    rare = optax.ScaleByRssState(jnp.ones(1))
    actual = interop.estimate_grad_sum(
        rare, jnp.ones(1), steps=100, initial_accumulator_value=0.0
    )
    assert actual == pytest.approx(10)


@pytest.mark.parametrize(
    ("shape", "power"),
    [((4, 3), 1.0), ((3, 4), 2.0), ((3, 3), 1.0), ((2, 5, 3), 1.0), ((5, 3, 4), 2.0)],
)
def test_adafactors_product_is_a_factored_sums(shape, power):
    """Of rank one, so that rows and columns lose nothing of it."""
    vectors = [RNG.uniform(0.5, 2, size) for size in shape]
    gradient = jnp.asarray(functools.reduce(np.multiply.outer, vectors), jnp.float32)
    params = jnp.zeros(shape)
    opt_state = state_after(ADAFACTOR(), [gradient] * 3, params)
    assert opt_state.v.shape == (1,)  # It is factored.
    actual = interop.estimate_grad_sum(opt_state, params, power=power)
    np.testing.assert_allclose(actual, 3 * gradient**power, rtol=1e-5)

    optimizer = classp_jax.classp(0.1, power=power, factored=True)
    of_classp = state_after(optimizer, [gradient] * 3, params)
    set_by_hand = interop.with_grad_sum(optimizer.init(params), actual)
    chex.assert_trees_all_close(
        optax.tree.get(set_by_hand, "grad_sum"),
        optax.tree.get(of_classp, "grad_sum"),
        rtol=1e-5,
    )


def test_adafactors_rows_and_columns_stay_its_own():
    """Of any gradients the means of the product are those that it has kept."""
    gradients = [jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32) for _ in range(3)]
    opt_state = state_after(ADAFACTOR(), gradients, gradients[0])
    actual = interop.estimate_grad_sum(opt_state, gradients[0], power=2.0) / 3
    np.testing.assert_allclose(actual.mean(0), opt_state.v_row, rtol=1e-5)
    np.testing.assert_allclose(actual.mean(1), opt_state.v_col, rtol=1e-5)


def groups(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key, params)


WRAPPED = {
    "chain": lambda adam: optax.chain(optax.clip(9.0), adam, optax.scale(2.0)),
    "masked": lambda adam: optax.masked(adam, lambda _: True),
    "partition": lambda adam: optax.partition({"kernel": adam, "bias": adam}, groups),
    "MultiSteps": lambda adam: optax.MultiSteps(adam, 1),
    "apply_if_finite": lambda adam: optax.apply_if_finite(adam, 1),
    "schedule_free": lambda adam: optax.contrib.schedule_free(adam, 0.1),
    "two_kinds": lambda adam: optax.partition(
        {"kernel": adam, "bias": optax.adagrad(0.1, 0.0)}, groups
    ),
}


@pytest.mark.parametrize("wrap", WRAPPED)
def test_it_is_found_inside_any_state(wrap):
    opt_state = state_after(WRAPPED[wrap](optax.adam(0.1)), CONSTANT)
    actual = interop.estimate_grad_sum(
        opt_state, PARAMS, steps=STEPS, initial_accumulator_value=0.0
    )
    assert jax.tree.structure(actual) == jax.tree.structure(PARAMS)
    chex.assert_trees_all_close(actual, sum_of_powers(CONSTANT, 1), rtol=1e-4)


def test_it_is_found_among_injected_values_and_in_flaxs_variables():
    adam = optax.inject_hyperparams(optax.adam)(0.1)
    opt_state = state_after(adam, CONSTANT)
    actual = interop.estimate_grad_sum(opt_state, PARAMS)
    chex.assert_trees_all_close(actual, sum_of_powers(CONSTANT, 1), rtol=1e-5)

    module = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(module, optax.adam(0.1), wrt=nnx.Param)
    params = nnx.state(module, nnx.Param)
    optimizer.update(module, jax.tree.map(lambda p: jnp.full_like(p, 2), params))
    grad_sum = interop.estimate_grad_sum(optimizer.opt_state, params)
    of_classp = nnx.Optimizer(module, classp_jax.classp(0.1), wrt=nnx.Param)
    opt_state = interop.with_grad_sum(of_classp.opt_state, grad_sum)
    assert classp_jax.average_grad_sum(opt_state) == pytest.approx(2)


def test_each_of_stacked_layers_has_its_own_count():
    adam = optax.adam(0.1)
    gradients = jnp.ones((2, 3))
    _, stacked = jax.vmap(adam.update)(gradients, jax.vmap(adam.init)(gradients))
    stacked = optax.tree.set(stacked, count=jnp.array([1, 10]))
    actual = interop.estimate_grad_sum(stacked, gradients)
    expected = [1, 10 * np.sqrt(0.001 / (1 - 0.999**10))]
    np.testing.assert_allclose(actual, np.repeat([expected], 3, 0).T, rtol=1e-4)


def test_what_is_set_lies_as_the_state_did_and_a_new_head_begins_at_zero():
    place = NamedSharding(jax.make_mesh((2,), ("data",)), PartitionSpec(None, "data"))
    params = {"kernel": jax.device_put(PARAMS["dense"]["kernel"], place)}
    gradient = {"kernel": jnp.full((3, 2), 2.0)}
    opt_state = state_after(optax.adam(0.1), [gradient], params)
    grad_sum = interop.estimate_grad_sum(opt_state, params)
    params["head"] = jnp.ones(4)
    optimizer = classp_jax.classp(0.1)
    before = optimizer.init(params)
    after = interop.with_grad_sum(before, {**grad_sum, "head": np.zeros(4)})
    kernel, head = (optax.tree.get(after, "grad_sum")[k] for k in ("kernel", "head"))
    assert kernel.sharding == optax.tree.get(before, "grad_sum")["kernel"].sharding
    assert not kernel.sharding.is_fully_replicated
    np.testing.assert_allclose(kernel, 2, rtol=1e-5)
    assert not head.any()


ADAM, ADAGRAD = (state_after(o(0.1), GRADIENTS) for o in (optax.adam, optax.adagrad))


@pytest.mark.parametrize(
    ("opt_state", "keywords", "message"),
    [
        (optax.sgd(0.1).init(PARAMS), {}, "There is no second moment .*Adam"),
        (classp_jax.classp(0.1).init(PARAMS), {}, "There is no second moment"),
        ((ADAM, ADAM), {}, "two second moments of dense.bias, dense.kernel"),
        (optax.adam(0.1).init(PARAMS), {}, "of dense.bias is that of no step"),
        (optax.adam(0.1).init(PARAMS["dense"]), {}, "is that of no step"),
        (ADAGRAD, {}, "power of 1.0, dense.bias needs steps"),
        (
            ADAGRAD,
            {"power": 2.0, "initial_accumulator_value": 99.0},
            "dense.bias must have a sum of squares, but has values below 0",
        ),
        (ADAM, {"power": 0.0}, "power must be finite and above 0"),
        (ADAM, {"steps": -1}, "steps must be finite and above 0"),
        (ADAM, {"b2": 1.0}, "b2 must be at least 0 and below 1"),
    ],
)
def test_what_cant_be_had_is_said(opt_state, keywords, message):
    with pytest.raises(ValueError, match=message):
        interop.estimate_grad_sum(opt_state, PARAMS, **keywords)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"dense": {"bias": PARAMS["dense"]["bias"]}}, r"\['dense.kernel'\]"),
        ({**PARAMS, "head": jnp.ones(3)}, r"missing: \['head'\]"),
        (
            {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(2)}},
            r"dense.kernel must have .* shape \(2, 3\), got \(3, 2\)",
        ),
    ],
)
def test_a_moment_of_other_parameters_is_named(params, message):
    with pytest.raises(ValueError, match=message):
        interop.estimate_grad_sum(ADAM, params)


def test_adafactors_moments_of_other_parameters_are_named():
    params = jnp.zeros((4, 3))
    opt_state = state_after(ADAFACTOR(), [params], params)
    message = r"shapes \(2,\) and \(5,\), got \(3,\) and \(4,\)"
    with pytest.raises(ValueError, match=message):
        interop.estimate_grad_sum(opt_state, jnp.zeros((5, 2)))


# PyTorch's.


def torch_training(make, **keywords):
    """Behind some steps, and their gradients in JAX."""
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"dense": torch.nn.Linear(3, 2)})
    optimizer = make(model.named_parameters(), **keywords)
    gradients = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        model["dense"](torch.randn(4, 3)).square().mean().backward()
        of = model["dense"]
        gradients.append(
            {"dense": {"kernel": of.weight.grad.T.numpy().copy(),
                       "bias": of.bias.grad.numpy().copy()}}
        )  # fmt: skip
        optimizer.step()
    return optimizer, gradients


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW])
def test_adam_of_a_pytorch_file_is_that_of_optax(make, tmp_path):
    optimizer, gradients = torch_training(make, betas=(0.9, 0.99))
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    state_dict = interop.load(tmp_path / "optimizer.pt")
    fresh = classp_jax.classp(0.1).init(PARAMS)
    expected = state_after(optax.adam(0.1, b2=0.99), gradients)
    for steps in (None, 100):
        new = interop.grad_sum_from_torch(
            state_dict, None, LAYOUT, fresh,
            accumulator="exp_avg_sq", power=1.0, steps=steps,
        )  # fmt: skip
        chex.assert_trees_all_close(
            optax.tree.get(new, "grad_sum"),
            interop.estimate_grad_sum(expected, PARAMS, steps=steps, b2=0.99),
            rtol=1e-5,
        )
        assert jax.tree.structure(new) == jax.tree.structure(fresh)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_adagrad_of_pytorch_is_that_of_optax(power):
    keywords = {"initial_accumulator_value": 0.3}
    optimizer, gradients = torch_training(torch.optim.Adagrad, **keywords)
    new = interop.grad_sum_from_torch(
        optimizer.state_dict(), None, LAYOUT, classp_jax.classp(0.1).init(PARAMS),
        accumulator="sum", power=power,
    )  # fmt: skip
    squares = sum_of_powers(gradients, 2)
    expected = jax.tree.map(
        lambda q: STEPS ** (1 - power / 2) * q ** (power / 2), squares
    )
    actual = optax.tree.get(new, "grad_sum")
    chex.assert_trees_all_close(actual, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"accumulator": "exp_avg_sq"}, "give the power whose sum is wanted"),
        ({"accumulator": "exp_avg_sq", "power": 0.0}, "power must be finite and above"),
        ({"accumulator": "exp_avg_sq", "power": 1.0, "steps": 0.0}, "steps must be"),
        ({"accumulator": "exp_avg", "power": 1.0}, "exp_avg_sq or sum; got 'exp_avg'"),
        ({"accumulator": "sum", "power": 1.0}, "dense.weight must have a sum, got"),
    ],
)
def test_pytorchs_that_cant_be_had_are_said(keywords, message):
    optimizer, _ = torch_training(torch.optim.Adam)
    fresh = classp_jax.classp(0.1).init(PARAMS)
    with pytest.raises(ValueError, match=message):
        interop.grad_sum_from_torch(
            optimizer.state_dict(), None, LAYOUT, fresh, **keywords
        )
