"""Sums of directions between PyTorch and JAX, and training that goes on."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import classp_jax
from classp_jax import interop
from classp_jax.verify.reference import ClasspGram

LAYOUT = {
    **interop.kernel_and_bias("conv", transposed=False),
    **interop.kernel_and_bias("dense", "fc", flattened=(3, 2, 5)),
    **interop.kernel_and_bias("out"),
}
SHAPES = {
    "conv": {"kernel": (3, 2, 2, 3), "bias": (3,)},
    "dense": {"kernel": (30, 6), "bias": (6,)},
    "out": {"kernel": (6, 4), "bias": (4,)},
}
NAMES = [
    f"{layer}.{kind}" for layer in ("conv", "fc", "out") for kind in ("weight", "bias")
]
SETTINGS = dict(damping=0.5, refresh_every=1)


def random_arrays(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )


PARAMS = random_arrays(0)


def in_torch(**settings):
    """An optimizer in PyTorch of the weights that are PARAMS."""
    tensors = interop.params_to_torch(PARAMS, LAYOUT)
    weights = [(name, torch.nn.Parameter(tensors[name])) for name in NAMES]
    return ClasspGram(weights, lr=0.1, **{**SETTINGS, **settings}), dict(weights)


def train_torch(optimizer, weights, seeds):
    for seed in seeds:
        grads = interop.params_to_torch(random_arrays(seed), LAYOUT)
        for name, weight in weights.items():
            weight.grad = grads[name]
        optimizer.step()


@functools.cache
def compiled_update(optimizer):
    return jax.jit(optimizer.update)


@functools.cache
def of_directions(rank=None, **settings):
    """An optimizer, and its state before the first step."""
    settings = {**SETTINGS, "rank": rank, **settings}
    optimizer = classp_jax.classp_gram(0.1, **settings)
    return optimizer, jax.jit(optimizer.init)(PARAMS)


def train_jax(optimizer, params, opt_state, seeds):
    update = compiled_update(optimizer)
    for seed in seeds:
        updates, opt_state = update(random_arrays(seed), opt_state, params)
        params = optax.apply_updates(params, updates)
    return params, opt_state


def from_torch(state_dict, opt_state, layout=LAYOUT, params=PARAMS, names=None):
    return interop.grad_sum_from_torch(
        state_dict, names, layout, opt_state, accumulator="gram", params=params
    )


def to_torch(opt_state, state_dict, layout=LAYOUT, params=PARAMS, names=None):
    return interop.grad_sum_to_torch(
        opt_state, names, layout, state_dict, accumulator="gram", params=params
    )


def test_training_goes_on_in_the_other_framework():
    first, second = range(1, 5), range(5, 9)
    torch_optimizer, weights = in_torch()
    train_torch(torch_optimizer, weights, first)
    optimizer, start = of_directions()
    params = interop.params_from_torch(weights, LAYOUT, PARAMS)
    after_first, opt_state = train_jax(optimizer, PARAMS, start, first)
    without, _ = train_jax(optimizer, params, start, second)

    carried = from_torch(torch_optimizer.state_dict(), start)
    sums = [optax.tree.get(state, "gram") for state in (carried, opt_state)]
    chex.assert_trees_all_close(*sums, rtol=1e-5, atol=1e-5)
    params, _ = train_jax(optimizer, params, carried, second)
    mine, _ = train_jax(optimizer, after_first, opt_state, second)
    chex.assert_trees_all_close(params, mine, rtol=1e-5, atol=1e-5)

    fresh, back = in_torch()
    tensors = interop.params_to_torch(after_first, LAYOUT)
    for name, weight in back.items():
        weight.data = tensors[name]
    fresh.load_state_dict(to_torch(opt_state, fresh.state_dict()))
    train_torch(fresh, back, second)
    train_torch(torch_optimizer, weights, second)
    for found in (back, weights):
        new = interop.params_from_torch(found, LAYOUT, PARAMS)
        chex.assert_trees_all_close(new, mine, rtol=1e-5, atol=1e-5)
    lost = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), without, mine)
    assert min(jax.tree.leaves(lost)) > 1e-3


STATIC = ("exponent", "refresh_every", "max_dim", "rank")
WRAPPED = {
    "chained": optax.chain(optax.clip_by_global_norm(1.0), of_directions()[0]),
    "partition": optax.partition(
        {"a": of_directions()[0], "b": of_directions(damping=2.0)[0]},
        {"conv": "a", "dense": "b", "out": "a"},
    ),
    "injected": optax.inject_hyperparams(classp_jax.classp_gram, static_args=STATIC)(
        0.1, rank=None
    ),
}


@pytest.fixture(scope="module")
def used():
    """A PyTorch optimizer's state with two steps behind it."""
    optimizer, weights = in_torch()
    train_torch(optimizer, weights, [1, 2])
    return optimizer.state_dict()


@pytest.mark.parametrize("wrap", WRAPPED)
def test_they_are_found_inside_any_state_and_come_back_to_the_bit(wrap, used):
    opt_state = WRAPPED[wrap].init(PARAMS)
    new = from_torch(used, opt_state)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, opt_state)
    back = to_torch(new, in_torch()[0].state_dict())
    for number, state in used["state"].items():
        assert torch.equal(back["state"][number]["gram"], state["gram"])
    # All else is as it was.
    blank = to_torch(opt_state, used)
    chex.assert_trees_all_equal(from_torch(blank, new), opt_state)
    assert not any(state["gram"].any() for state in blank["state"].values())
    assert all(state["factor"].any() for state in blank["state"].values())


KERNELS = {
    "linear": ((4, 3), dict(is_kernel=True)),
    "convolution": ((3, 2, 4, 3), dict(is_kernel=True)),
    "square": ((3, 2, 4, 4), dict(is_kernel=True, transposed=False)),
    "transposed": ((3, 2, 4, 3), dict(is_kernel=True, transposed=True)),
    "flattened": ((30, 3), dict(is_kernel=True, flattened=(3, 2, 5))),
    "embedding": ((5, 3), dict()),
    "bias": ((3,), dict()),
    "scalar": ((), dict()),
}


@pytest.mark.parametrize("name", KERNELS)
def test_inputs_have_the_order_of_pytorchs_axes(name):
    shape, keywords = KERNELS[name]
    layout = {"w": interop.Tensor("v", **keywords)}
    gradient = {"w": jnp.asarray(np.random.default_rng(0).normal(size=shape), "f4")}
    theirs = interop.params_to_torch(gradient, layout)["v"]
    matrix = {
        "transposed": lambda: theirs.transpose(0, 1).reshape(3, -1).T,
        "embedding": lambda: theirs,
    }.get(name, lambda: theirs.reshape(shape[-1] if shape else 1, -1).T)()
    state_dict = {
        "state": {0: {"gram": matrix @ matrix.T}},
        "param_groups": [{"params": [0]}],
    }
    optimizer = classp_jax.scale_by_accumulated_gram(rank=None)
    expected = np.reshape(gradient["w"], (-1, shape[-1] if shape else 1))
    arguments = (layout, gradient, ["v"])
    new = from_torch(state_dict, optimizer.init(gradient), *arguments)
    np.testing.assert_allclose(new.gram["w"][0], expected @ expected.T, 1e-5, 1e-5)
    back = to_torch(new, {**state_dict, "state": {}}, *arguments)["state"][0]["gram"]
    assert torch.equal(back, matrix @ matrix.T)


def test_a_vectors_sum_may_be_a_number(used):
    number = NAMES.index("fc.bias")
    state = {**used["state"], number: {"gram": torch.tensor(7.0)}}
    new = from_torch({**used, "state": state}, of_directions()[1])
    assert optax.tree.get(new, "gram")["dense"]["bias"].item() == 7
    back = to_torch(new, {**used, "state": state})["state"][number]["gram"]
    assert back.shape == () and back == 7


def test_a_parameter_without_state_counts_as_zeros(used):
    state = {k: v for k, v in used["state"].items() if k != NAMES.index("fc.weight")}
    for rank in (None, 4):
        before = from_torch(used, of_directions(rank)[1])
        gram = optax.tree.get(from_torch({**used, "state": state}, before), "gram")
        assert not any(map(np.any, jax.tree.leaves(gram["dense"]["kernel"])))
        assert all(map(np.any, jax.tree.leaves((gram["conv"], gram["out"]))))


def test_a_sketch_takes_what_it_would_have_kept_and_gives_nothing(used):
    optimizer, start = of_directions(4)
    new = from_torch(used, start)
    _, expected = train_jax(optimizer, PARAMS, start, [1, 2])
    sums = [optax.tree.get(state, "gram") for state in (new, expected)]
    chex.assert_trees_all_close(*sums, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="conv.kernel has a sketch .* rank=None keeps"):
        to_torch(new, used)


def test_blocks_of_the_same_inputs_go_both_ways_and_others_are_refused():
    layout = LAYOUT | interop.kernel_and_bias("dense", "fc")
    torch_optimizer, weights = in_torch(max_dim=12)
    grads = interop.params_to_torch(random_arrays(1), layout)
    for name, weight in weights.items():
        weight.grad = grads[name]
    torch_optimizer.step()
    state_dict = torch_optimizer.state_dict()
    optimizer, start = of_directions(max_dim=12)
    new = from_torch(state_dict, start, layout)
    _, expected = train_jax(optimizer, PARAMS, start, [1])
    sums = [optax.tree.get(state, "gram") for state in (new, expected)]
    assert sums[0]["dense"]["kernel"].shape == (3, 10, 10)
    chex.assert_trees_all_close(*sums, rtol=1e-5, atol=1e-5)
    back = to_torch(new, {**state_dict, "state": {}}, layout)
    for number, state in state_dict["state"].items():
        assert torch.equal(back["state"][number]["gram"], state["gram"])
    for convert in (from_torch, to_torch):
        arguments = (state_dict, new) if convert is from_torch else (new, state_dict)
        with pytest.raises(ValueError, match="dense.kernel has 3 blocks of inputs"):
            convert(*arguments, LAYOUT)


def wrong(key, gram):
    def change(state_dict):
        state = {**state_dict["state"], NAMES.index(key): {"gram": gram}}
        return {**state_dict, "state": state}

    return change


FUNCTIONS = interop.Tensor("out.weight", to_jax=lambda w: w.T, to_torch=lambda k: k.T)


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (None, dict(params=None), "Sums of directions need params"),
        (
            None,
            dict(params={"out": PARAMS["out"]}),
            "conv.kernel has sums of 12 inputs",
        ),
        (None, dict(params=PARAMS | {"out": PARAMS["dense"]}), r"got shape \(30, 6\)"),
        (
            None,
            dict(layout=LAYOUT | {"out.kernel": FUNCTIONS}),
            "out.kernel are made by",
        ),
        (
            wrong("out.weight", torch.ones(4, 6)),
            {},
            r"out.kernel .*\(6, 6\), .* got \(4, 6",
        ),
        (
            wrong("out.weight", torch.ones(6, 6).tril()),
            {},
            "out.kernel must be a sum of",
        ),
        (wrong("out.bias", -torch.ones(1, 1)), {}, "no value below 0 on its diagonal"),
        (wrong("out.bias", torch.ones(4)), {}, r"out.bias must have shape \(1, 1\)"),
        (
            wrong("out.bias", torch.tensor(1e300, dtype=torch.float64)),
            {},
            "out.bias must be float32",
        ),
    ],
)
def test_what_does_not_fit_is_named(change, more, message, used):
    state_dict = change(used) if change else used
    for rank in (None, 4):
        opt_state = of_directions(rank)[1]
        with pytest.raises(ValueError, match=message):
            from_torch(state_dict, opt_state, **more)


def test_no_squares_are_made_sums_of_directions(used):
    opt_state = of_directions()[1]
    keywords = dict(accumulator="sum", power=2.0, params=PARAMS)
    with pytest.raises(ValueError, match="can't be made of squares"):
        interop.grad_sum_from_torch(used, None, LAYOUT, opt_state, **keywords)


def test_tied_weights_have_one_sum():
    layout = {"words": interop.Tensor(("w", "head"))}
    params = {"words": jnp.zeros((3, 2))}
    eye = torch.eye(3)
    state_dict = {
        "state": {0: {"gram": eye}, 1: {"gram": eye.clone()}},
        "param_groups": [{"params": [0, 1]}],
    }
    opt_state = classp_jax.classp_gram(0.1, rank=None).init(params)
    arguments = (layout, params, ["w", "head"])
    new = from_torch(state_dict, opt_state, *arguments)
    back = to_torch(new, state_dict, *arguments)["state"]
    assert torch.equal(back[0]["gram"], eye) and torch.equal(back[1]["gram"], eye)
    state_dict["state"][1]["gram"] += 1
    with pytest.raises(ValueError, match="head must equal w"):
        from_torch(state_dict, opt_state, *arguments)


def test_numpys_sums_are_set_by_path():
    params = {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}
    total = np.diag([1.0, 2.0, 0.0])
    grad_sum = {"kernel": total, "bias": np.array([[4.0]])}
    optimizer = classp_jax.classp_gram(0.1, rank=None)
    opt_state = optimizer.init(params)
    new = interop.with_grad_sum(opt_state, grad_sum)
    _, new = jax.jit(optimizer.update)(params, new)  # No gradient, and a refresh.
    scaling = optax.tree.get(new, "scaling")
    chex.assert_trees_all_close(scaling["kernel"][0], np.diag([1 / 2, 1 / 3, 1]))
    assert scaling["bias"].item() == pytest.approx(1 / 5)
    with pytest.raises(ValueError, match=r"missing: \['bias'\]"):
        interop.with_grad_sum(opt_state, {"kernel": total})


@pytest.mark.parametrize("shape", [(3, 2), (3, 3), (3,)])
def test_an_estimate_from_adam_is_refused_and_collect_named(shape):
    params = {"w": jnp.arange(math.prod(shape), dtype=jnp.float32).reshape(shape)}
    adam = optax.adam(0.1)
    _, adam_state = adam.update(params, adam.init(params), params)
    grad_sum = interop.estimate_grad_sum(adam_state, params)
    for rank in (None, 1):
        opt_state = classp_jax.classp_gram(0.1, rank=rank).init(params)
        with pytest.raises(ValueError, match=r"^w must .* classp_jax\.collect"):
            interop.with_grad_sum(opt_state, grad_sum)


def test_of_a_state_with_both_the_sums_of_weights_are_set():
    both = optax.partition(
        {"a": classp_jax.classp(0.1), "b": classp_jax.classp_gram(0.1)},
        {"w": "a", "v": "b"},
    )
    opt_state = both.init({"w": jnp.zeros((2, 2)), "v": jnp.zeros((2, 2))})
    new = interop.with_grad_sum(opt_state, {"w": np.ones((2, 2))})
    assert classp_jax.average_grad_sum(new) == 1
    assert not any(map(np.any, jax.tree.leaves(optax.tree.get(new, "gram"))))
