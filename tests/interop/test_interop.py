"""Weights and accumulators between PyTorch and JAX, and training that goes on."""

import copy
import functools
import pickle
import subprocess
import sys
import zipfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import classp_jax
from classp_jax import interop
from examples.models.cnn import CNN
from tests import helpers
from tests.reference import cnn
from tests.reference.optimizer import Classp

LAYOUT = {
    **interop.kernel_and_bias("conv"),
    **interop.kernel_and_bias("dense", "fc", flattened=(3, 2, 5)),
    **interop.scale_and_bias("norm", "layers.norm"),
    "embedding": interop.Tensor("words.weight"),
}
SHAPES = {
    "conv": {"kernel": (5, 4, 2, 3), "bias": (3,)},
    "dense": {"kernel": (30, 6), "bias": (6,)},
    "norm": {"scale": (7,), "bias": (7,)},
    "embedding": (8, 7),
}
TORCH_SHAPES = {
    "conv.weight": (3, 2, 5, 4),
    "conv.bias": (3,),
    "fc.weight": (6, 30),
    "fc.bias": (6,),
    "layers.norm.weight": (7,),
    "layers.norm.bias": (7,),
    "words.weight": (8, 7),
}
NAMES = list(TORCH_SHAPES)


def zeros(dtype=jnp.float32):
    return jax.tree.map(
        lambda shape: jnp.zeros(shape, dtype),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def random_tensors(dtype=torch.float32):
    torch.manual_seed(0)
    return {key: torch.rand(shape).to(dtype) for key, shape in TORCH_SHAPES.items()}


def in_jax(tensors):
    """What ``tensors`` are in JAX, the flattened weight spelled out row by row."""
    fc = tensors["fc.weight"]
    image = fc.reshape(6, 3, 2, 5)
    dense = torch.empty(30, 6, dtype=fc.dtype)
    for row, column, channel in np.ndindex(2, 5, 3):
        dense[(row * 5 + column) * 3 + channel] = image[:, channel, row, column]
    return {
        "conv": {
            "kernel": tensors["conv.weight"].permute(2, 3, 1, 0),
            "bias": tensors["conv.bias"],
        },
        "dense": {"kernel": dense, "bias": tensors["fc.bias"]},
        "norm": {
            "scale": tensors["layers.norm.weight"],
            "bias": tensors["layers.norm.bias"],
        },
        "embedding": tensors["words.weight"],
    }


# Weights.


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_params_move_their_axes_and_come_back_to_the_bit(dtype):
    tensors = random_tensors(getattr(torch, dtype))
    expected = jax.tree.map(
        lambda t: t.double().numpy().astype(jnp.dtype(dtype)), in_jax(tensors)
    )
    with helpers.enable_x64(dtype == "float64"):
        params = interop.params_from_torch(tensors, LAYOUT, zeros(dtype))
        chex.assert_trees_all_equal_shapes_and_dtypes(params, expected)
        chex.assert_trees_all_equal(params, expected)
        back = interop.params_to_torch(params, LAYOUT)
    assert list(back) == NAMES
    for key, tensor in tensors.items():
        assert back[key].dtype == tensor.dtype
        assert back[key].is_contiguous()
        assert torch.equal(back[key], tensor)


def test_params_keep_the_structure_dtype_and_placement_of_the_model():
    tensors = random_tensors()
    device = jax.devices()[1]
    params = zeros()
    params["embedding"] = jax.device_put(params["embedding"], device)
    params["norm"] = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params["norm"])
    params = nnx.State(jax.tree.map(nnx.Param, params))
    new = interop.params_from_torch(tensors, LAYOUT, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, params)
    assert new["embedding"][...].devices() == {device}
    assert not new["conv"]["bias"][...].committed
    back = interop.params_to_torch(new, LAYOUT)
    assert torch.equal(back["fc.weight"], tensors["fc.weight"])

    shapes = jax.eval_shape(zeros)  # The structure is enough.
    chex.assert_trees_all_equal(
        interop.params_from_torch(tensors, LAYOUT, shapes),
        interop.params_from_torch(tensors, LAYOUT, zeros()),
    )


def test_what_is_converted_shares_no_memory():
    tensors = random_tensors()
    params = interop.params_from_torch(tensors, LAYOUT, zeros())
    before = jax.tree.map(np.array, params)
    back = interop.params_to_torch(params, LAYOUT)
    for tensor in (*tensors.values(), *back.values()):
        tensor += 1  # As an optimizer does, in place.
    chex.assert_trees_all_equal(params, before)


def without(mapping, key):
    return {k: v for k, v in mapping.items() if k != key}


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"fc.bias": None}, ["missing: ['fc.bias'], unexpected: none"]),
        ({"head.bias": (3,)}, ["missing: none, unexpected: ['head.bias']"]),
        ({"fc.bias": (5,)}, ["dense.bias", "(6,)", "(5,)"]),
        (
            {"conv.weight": (3, 2, 4, 5)},
            ["conv.kernel", "(5, 4, 2, 3)", "(4, 5, 2, 3)"],
        ),
        ({"conv.weight": (3,)}, ["conv.weight", "two axes or more", "(3,)"]),
        ({"fc.weight": (6, 31)}, ["fc.weight", "(3, 2, 5)", "30 inputs", "(6, 31)"]),
    ],
)
def test_params_from_torch_names_a_wrong_tensor(changes, messages):
    tensors = random_tensors()
    for key, shape in changes.items():
        tensors = without(tensors, key)
        if shape is not None:
            tensors[key] = torch.ones(shape)
    with pytest.raises(ValueError) as info:
        interop.params_from_torch(tensors, LAYOUT, zeros())
    for message in messages:
        assert message in str(info.value)


def test_params_from_torch_names_an_array_that_the_layout_lacks():
    params = {**zeros(), "head": jnp.zeros(3)}
    with pytest.raises(ValueError, match=r"missing: \['head'\], unexpected: none"):
        interop.params_from_torch(random_tensors(), LAYOUT, params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding": None}, r"missing: \['embedding'\], unexpected: none"),
        ({"head": (3,)}, r"missing: none, unexpected: \['head'\]"),
        ({"dense": {"kernel": (31, 6), "bias": (6,)}}, r"fc.weight .*got .*\(31, 6\)"),
        ({"conv": {"kernel": (3,), "bias": (3,)}}, r"conv.weight .*got shape \(3,\)"),
    ],
)
def test_params_to_torch_names_a_wrong_array(changes, message):
    params = {k: v for k, v in {**SHAPES, **changes}.items() if v is not None}
    params = jax.tree.map(np.zeros, params, is_leaf=lambda n: isinstance(n, tuple))
    with pytest.raises(ValueError, match=message):
        interop.params_to_torch(params, LAYOUT)


def test_tied_weights_must_agree():
    layout = {"words": interop.Tensor("w"), "head": interop.Tensor("w")}
    tied = dict.fromkeys(layout, jnp.ones(2))
    assert list(interop.params_to_torch(tied, layout)) == ["w"]
    with pytest.raises(ValueError, match="head must equal .* w in PyTorch"):
        interop.params_to_torch(tied | {"head": jnp.zeros(2)}, layout)


def test_tied_tensors_of_one_array_must_agree():
    layout = {"words": interop.Tensor(("w", "head"))}
    params = {"words": jnp.zeros(3)}
    values = torch.tensor([1.0, float("nan"), float("inf")])
    state_dict = {"w": values, "head": values.clone()}
    new = interop.params_from_torch(state_dict, layout, params)
    np.testing.assert_array_equal(new["words"], values)
    back = interop.params_to_torch(new, layout)
    assert list(back) == ["w", "head"]
    for tensor in back.values():
        torch.testing.assert_close(tensor, values, rtol=0, atol=0, equal_nan=True)
    for other in (torch.zeros(3), torch.ones(1)):
        with pytest.raises(ValueError, match="head must equal w, .* words in JAX"):
            interop.params_from_torch({"w": values, "head": other}, layout, params)


BUFFERS = ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked")


@pytest.mark.parametrize(
    "ignore", [BUFFERS, "norm.*_*", ("*.running_*", "*.num_batches_tracked"), "*"]
)
def test_buffers_are_left_out_where_that_is_said(ignore):
    module = torch.nn.ModuleDict({"norm": torch.nn.BatchNorm1d(3)})
    layout = interop.scale_and_bias("norm")
    params = {"norm": {"scale": jnp.zeros(3), "bias": jnp.ones(3)}}
    state_dict = module.state_dict()
    with pytest.raises(ValueError, match=r"unexpected: \['norm.running_mean'"):
        interop.params_from_torch(state_dict, layout, params)
    new = interop.params_from_torch(state_dict, layout, params, ignore=ignore)
    assert np.all(new["norm"]["scale"] == 1) and not np.any(new["norm"]["bias"])
    # What the layout has is never left out, nor excused where it is missing.
    with pytest.raises(ValueError, match=r"missing: \['norm.bias'\]"):
        interop.params_from_torch(
            without(state_dict, "norm.bias"), layout, params, ignore=ignore
        )


def test_buffers_of_integers_are_carried():
    module = torch.nn.BatchNorm1d(3)
    module(torch.randn(5, 3))
    keys = ("running_mean", "running_var", "num_batches_tracked")
    layout = {key: interop.Tensor(key) for key in keys}
    params = {
        "running_mean": jnp.zeros(3),
        "running_var": jnp.zeros(3),
        "num_batches_tracked": jnp.int32(0),
    }
    new = interop.params_from_torch(
        module.state_dict(), layout, params, ignore=("weight", "bias")
    )
    assert new["num_batches_tracked"] == 1 and np.any(new["running_mean"])


@pytest.mark.parametrize(
    ("tensor", "dtype", "value"),
    [
        (torch.tensor([0.0, 1 + 2j]), "float32", "complex64"),
        (torch.tensor([1e300], dtype=torch.float64), "float32", r"1e\+300"),
        (torch.tensor([-1e300], dtype=torch.float64), "bfloat16", r"-1e\+300"),
        (torch.tensor([1.0, 1e6]), "float16", "1000000.0"),
        (torch.tensor([1e3]), "float8_e4m3fn", "1000.0"),
        (torch.tensor([float("inf")]), "float8_e4m3fn", "inf"),
        (torch.tensor([0.0, 1.5]), "int32", "1.5"),
        (torch.tensor([float("nan")]), "int32", "nan"),
        (torch.tensor([2**31]), "int32", "2147483648"),
        (torch.tensor([-1]), "uint8", "-1"),
        (torch.tensor([2.0]), "bool", "2.0"),
        (torch.tensor([2**24 + 1]), "float32", "16777217"),
    ],
)
def test_a_value_that_the_dtype_cannot_hold_is_named(tensor, dtype, value):
    params = {"w": jnp.zeros(len(tensor), dtype)}
    with pytest.raises(ValueError, match=f"^w must be .*{value}"):
        interop.params_from_torch({"v": tensor}, {"w": interop.Tensor("v")}, params)


@pytest.mark.parametrize(
    ("tensor", "dtype"),
    [
        (torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0]), "float16"),
        (torch.tensor([1 / 3, 1e-300], dtype=torch.float64), "bfloat16"),
        (torch.tensor([65519.0]), "float16"),
        (torch.tensor([3.0, -4.0]), "int8"),
        (torch.tensor([True, False]), "float32"),
        (torch.tensor([1 + 2j, 3.0]), "complex64"),
        (torch.tensor([1 - 2j]).conj(), "complex64"),
        (torch.tensor([1.5, float("nan")]), "complex64"),
    ],
)
def test_values_are_rounded_at_most(tensor, dtype):
    params = {"w": jnp.zeros(len(tensor), dtype)}
    layout = {"w": interop.Tensor("v")}
    new = interop.params_from_torch({"v": tensor}, layout, params)["w"]
    assert new.dtype == dtype
    expected = tensor.resolve_conj().numpy().astype(jnp.dtype(dtype))
    np.testing.assert_array_equal(new, expected)


FLOAT8 = ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"]


@pytest.mark.parametrize("dtype", FLOAT8)
def test_float8_goes_both_ways_to_the_bit(dtype):
    tensor = torch.tensor([[0.5, -2.0, 0.0], [3.0, 1e-2, float("nan")]])
    tensor = tensor.to(getattr(torch, dtype))
    layout = {"w": interop.Tensor("v", is_kernel=True)}
    new = interop.params_from_torch(
        {"v": tensor}, layout, {"w": jnp.zeros((3, 2), dtype)}
    )
    np.testing.assert_array_equal(
        np.asarray(new["w"], np.float32), tensor.float().T.numpy()
    )
    back = interop.params_to_torch(new, layout)["v"]
    assert back.dtype == tensor.dtype
    assert torch.equal(back.view(torch.uint8), tensor.view(torch.uint8))


def test_sparse_tensors_are_read_and_what_has_no_values_is_named():
    layout, params = {"w": interop.Tensor("v")}, {"w": jnp.zeros((3, 3))}
    for sparse in (torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr()):
        new = interop.params_from_torch({"v": sparse}, layout, params)
        np.testing.assert_array_equal(new["w"], np.eye(3))
    quantized = torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8)
    for other in (torch.zeros(3, 3, device="meta"), quantized, np.eye(3), None):
        with pytest.raises(ValueError, match="^v"):
            interop.params_from_torch({"v": other}, layout, params)
    with pytest.raises(ValueError, match="^v is int4, which PyTorch lacks"):
        interop.params_to_torch({"w": jnp.zeros(3, "int4")}, layout)


def test_python_numbers_are_parameters_too():
    layout = {"w": interop.Tensor("v")}
    new = interop.params_from_torch({"v": torch.tensor(2.5)}, layout, {"w": 1.0})
    assert new["w"] == 2.5 and new["w"].dtype == jnp.float32


def test_only_a_kernel_can_be_flattened():
    with pytest.raises(ValueError, match=r"fc.bias is flattened"):
        interop.Tensor("fc.bias", flattened=(3, 2))


# Accumulators.


def labels(params):
    return {name: "a" if name in ("conv", "norm") else "b" for name in params}


def all_but_embedding(params):
    return {name: name != "embedding" for name in params}


WRAPPED = {
    "plain": lambda make: make(0.1),
    "chained": lambda make: optax.chain(optax.clip_by_global_norm(1.0), make(0.1)),
    "masked": lambda make: optax.masked(make(0.1), lambda p: dict.fromkeys(p, True)),
    "partition": lambda make: optax.partition({"a": make(0.1), "b": make(0.2)}, labels),
    "injected": lambda make: optax.inject_hyperparams(make, static_args="power")(0.1),
    "multi_steps": lambda make: optax.MultiSteps(make(0.1), 2),
}
READINGS = [classp_jax.classp, classp_jax.classp_equation1, classp_jax.classp_released]


def used_optimizer(tensors, names=NAMES):
    """A PyTorch optimizer in two groups with a step behind it, and its sums."""
    weights = [torch.nn.Parameter(tensors[name].clone()) for name in names]
    optimizer = Classp([{"params": weights[:3]}, {"params": weights[3:], "lr": 0.1}])
    for weight in weights:
        weight.grad = torch.rand_like(weight) + 1
    optimizer.step()
    sums = [optimizer.state[weight]["grad_sum"] for weight in weights]
    return optimizer, dict(zip(names, sums, strict=True))


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("wrap", WRAPPED)
def test_grad_sum_round_trip(wrap, reading):
    torch_optimizer, sums = used_optimizer(random_tensors())
    state_dict = torch_optimizer.state_dict()
    opt_state = WRAPPED[wrap](reading).init(zeros())
    new = interop.grad_sum_from_torch(state_dict, NAMES, LAYOUT, opt_state)

    chex.assert_trees_all_equal_shapes_and_dtypes(new, opt_state)
    actual = classp_jax.average_grad_sum(new, per_tensor=True)
    means = jax.tree.map(lambda s: s.mean().item(), in_jax(sums))
    expected = {
        jax.tree_util.keystr(path, simple=True, separator="."): mean
        for path, mean in jax.tree_util.tree_leaves_with_path(means)
    }
    assert actual.keys() == expected.keys()
    for path, mean in expected.items():
        assert actual[path] == pytest.approx(mean)
    # All else is as it was.
    blank = lambda s: interop.with_grad_sum(s, zeros())  # noqa: E731
    chex.assert_trees_all_equal(blank(new), opt_state)

    fresh = Classp([{"params": g["params"]} for g in torch_optimizer.param_groups])
    back = interop.grad_sum_to_torch(new, NAMES, LAYOUT, fresh.state_dict())
    assert fresh.state_dict()["state"] == {}
    fresh.load_state_dict(back)
    for group in fresh.param_groups:
        for weight in group["params"]:
            assert torch.equal(
                fresh.state[weight]["grad_sum"],
                torch_optimizer.state[weight]["grad_sum"],
            )


def test_grad_sum_moves_its_axes_as_the_weights_do():
    torch_optimizer, sums = used_optimizer(random_tensors())
    solver = classp_jax.scale_by_accumulated_power_norm()
    state = interop.grad_sum_from_torch(
        torch_optimizer.state_dict(), NAMES, LAYOUT, solver.init(zeros())
    )
    chex.assert_trees_all_equal(
        state.grad_sum, jax.tree.map(lambda s: s.numpy(), in_jax(sums))
    )


def test_a_factored_accumulator_takes_and_gives_the_sums_of_rows_and_columns():
    torch_optimizer, sums = used_optimizer(random_tensors())
    state_dict = torch_optimizer.state_dict()
    optimizer = classp_jax.classp(0.1, factored=True)
    opt_state = optimizer.init(zeros())
    new = interop.grad_sum_from_torch(state_dict, NAMES, LAYOUT, opt_state)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, opt_state)
    expected = jax.tree.map(lambda s: s.numpy(), in_jax(sums))
    rows, columns = optax.tree.get(new, "grad_sum")["embedding"]
    words = expected["embedding"]
    chex.assert_trees_all_close(rows, words.sum(1), rtol=1e-6)
    chex.assert_trees_all_close(columns, words.sum(0), rtol=1e-6)

    back = interop.grad_sum_to_torch(new, NAMES, LAYOUT, state_dict)
    given = back["state"][NAMES.index("words.weight")]["grad_sum"]
    outer = np.outer(words.sum(1), words.sum(0)) / words.sum()
    np.testing.assert_allclose(given.numpy(), outer, rtol=1e-6)
    again = interop.grad_sum_from_torch(back, NAMES, LAYOUT, opt_state)
    chex.assert_trees_all_close(again, new, rtol=1e-6)

    del state_dict["state"][NAMES.index("fc.weight")]
    new = interop.grad_sum_from_torch(state_dict, NAMES, LAYOUT, opt_state)
    of_kernel = optax.tree.get(new, "grad_sum")["dense"]["kernel"]
    assert not any(np.any(s) for s in jax.tree.leaves(of_kernel))
    with pytest.raises(
        ValueError, match=r"kernel must have shape \(2, 3\), got \(3, 2\)"
    ):
        interop.with_grad_sum(
            optimizer.init({"kernel": jnp.zeros((2, 3))}), {"kernel": np.ones((3, 2))}
        )


def test_parameters_left_out_of_both_optimizers():
    names = [name for name in NAMES if name != "words.weight"]
    torch_optimizer, sums = used_optimizer(random_tensors(), names)
    optimizer = optax.masked(classp_jax.classp(0.1), all_but_embedding)
    opt_state = optimizer.init(zeros())
    state_dict = torch_optimizer.state_dict()
    new = interop.grad_sum_from_torch(state_dict, names, LAYOUT, opt_state)
    back = interop.grad_sum_to_torch(new, names, LAYOUT, state_dict)
    for index, name in enumerate(names):
        assert torch.equal(back["state"][index]["grad_sum"], sums[name])


def test_a_parameter_without_state_counts_as_zeros():
    torch_optimizer, _ = used_optimizer(random_tensors())
    state_dict = torch_optimizer.state_dict()
    del state_dict["state"][NAMES.index("fc.weight")]
    opt_state = interop.with_grad_sum(
        classp_jax.classp(0.1).init(zeros()), jax.tree.map(lambda z: z + 3, zeros())
    )
    new = interop.grad_sum_from_torch(state_dict, NAMES, LAYOUT, opt_state)
    means = classp_jax.average_grad_sum(new, per_tensor=True)
    assert means["dense.kernel"] == 0
    assert all(mean >= 1 for path, mean in means.items() if path != "dense.kernel")


def test_grad_sum_to_torch_keeps_what_else_the_state_holds():
    torch_optimizer, _ = used_optimizer(random_tensors())
    state_dict = torch_optimizer.state_dict()
    state_dict["state"][0] = {**state_dict["state"][0], "step": 7}
    before = copy.deepcopy(state_dict)
    opt_state = classp_jax.classp(0.1).init(zeros())
    back = interop.grad_sum_to_torch(opt_state, NAMES, LAYOUT, state_dict)
    assert back["state"][0]["step"] == 7
    assert back["param_groups"] == before["param_groups"]
    assert not any(s["grad_sum"].any() for s in back["state"].values())
    for index, state in state_dict["state"].items():
        assert torch.equal(state["grad_sum"], before["state"][index]["grad_sum"])


@pytest.mark.parametrize("to_torch", [False, True])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (NAMES[1:], r"names must list the optimizer's 7 parameters, got 6: .*fc.bias"),
        ([*NAMES[:-1], "head"], r"layout has no entry for head"),
        (
            [*NAMES[:-1], NAMES[0]],
            r"missing: \['embedding'\]|unexpected: \['embedding'\]",
        ),
    ],
)
def test_grad_sum_names_wrong_names(names, message, to_torch):
    state_dict = used_optimizer(random_tensors())[0].state_dict()
    opt_state = classp_jax.classp(0.1).init(zeros())
    with pytest.raises(ValueError, match=message):
        if to_torch:
            interop.grad_sum_to_torch(opt_state, names, LAYOUT, state_dict)
        else:
            interop.grad_sum_from_torch(state_dict, names, LAYOUT, opt_state)


def test_grad_sum_from_torch_names_a_wrong_tensor():
    opt_state = classp_jax.classp(0.1).init(zeros())
    index = NAMES.index("fc.bias")

    def convert(state):
        state_dict = used_optimizer(random_tensors())[0].state_dict()
        state_dict["state"][index] = state
        return interop.grad_sum_from_torch(state_dict, NAMES, LAYOUT, opt_state)

    with pytest.raises(ValueError, match=r"fc.bias must have a grad_sum.*'exp_avg'"):
        convert({"exp_avg": torch.zeros(6)})
    with pytest.raises(ValueError, match=r"dense.bias .*\(6,\), got \(1,\)"):
        convert({"grad_sum": torch.zeros(1)})

    partly = optax.masked(classp_jax.classp(0.1), all_but_embedding).init(zeros())
    state_dict = used_optimizer(random_tensors())[0].state_dict()
    with pytest.raises(ValueError, match=r"unexpected: \['embedding'\]"):
        interop.grad_sum_from_torch(state_dict, NAMES, LAYOUT, partly)
    with pytest.raises(ValueError, match=r"missing: \['embedding'\]"):
        interop.grad_sum_to_torch(partly, NAMES, LAYOUT, state_dict)


def named_optimizer(named=True):
    """An optimizer in two groups, weights first, and the order of its parameters."""
    module = torch.nn.ModuleDict({k: torch.nn.Linear(3, 3) for k in "ab"})
    both = [
        [(n, p) for n, p in module.named_parameters() if n.endswith(end)]
        for end in ("weight", "bias")
    ]
    groups = [
        {"params": group if named else [p for _, p in group], "lr": 0.1 * (i + 1)}
        for i, group in enumerate(both)
    ]
    optimizer = Classp(groups, threshold=0.0)
    loss = module["a"](torch.ones(1, 3)).sum() + 9 * module["b"](torch.ones(1, 3)).sum()
    loss.backward()
    optimizer.step()
    return optimizer.state_dict(), [name for group in both for name, _ in group]


AB_LAYOUT = interop.kernel_and_bias("a") | interop.kernel_and_bias("b")


def ab_state():
    params = {k: {"kernel": jnp.zeros((3, 3)), "bias": jnp.zeros(3)} for k in "ab"}
    return classp_jax.classp(0.1).init(params)


@pytest.mark.parametrize("give_names", [False, True])
def test_names_are_those_that_the_optimizer_has_recorded(give_names):
    state_dict, names = named_optimizer()
    names = names if give_names else None
    new = interop.grad_sum_from_torch(state_dict, names, AB_LAYOUT, ab_state())
    means = classp_jax.average_grad_sum(new, per_tensor=True)
    expected = {"a.kernel": 1, "a.bias": 1, "b.kernel": 9, "b.bias": 9}
    assert means == pytest.approx(expected)
    back = interop.grad_sum_to_torch(new, names, AB_LAYOUT, state_dict)
    assert back["param_groups"] == state_dict["param_groups"]
    for number, state in state_dict["state"].items():
        assert torch.equal(back["state"][number]["grad_sum"], state["grad_sum"])


@pytest.mark.parametrize("to_torch", [False, True])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["b.weight", "a.weight", "a.bias", "b.bias"], r"names\[0\] is 'b.weight'"),
        (["a.weight", "b.weight", "b.bias", "a.bias"], r"names\[2\] is 'b.bias'"),
        (["a.weight", "a.bias", "b.weight", "b.bias"], r"names\[1\] is 'a.bias'"),
    ],
)
def test_names_that_contradict_the_recorded_ones_are_refused(names, message, to_torch):
    state_dict, _ = named_optimizer()
    with pytest.raises(ValueError, match=message + ".*own param_names"):
        if to_torch:
            interop.grad_sum_to_torch(ab_state(), names, AB_LAYOUT, state_dict)
        else:
            interop.grad_sum_from_torch(state_dict, names, AB_LAYOUT, ab_state())


def test_recorded_names_of_another_number_are_refused():
    state_dict, names = named_optimizer()
    state_dict["param_groups"][0]["param_names"] = names[:3]
    with pytest.raises(ValueError, match=r"got 2 params and the param_names"):
        interop.grad_sum_from_torch(state_dict, names, AB_LAYOUT, ab_state())


def test_names_must_be_given_where_none_are_recorded():
    state_dict, _ = named_optimizer(named=False)
    with pytest.raises(ValueError, match="names must be given"):
        interop.grad_sum_from_torch(state_dict, None, AB_LAYOUT, ab_state())


def test_a_models_state_dict_is_no_optimizers():
    with pytest.raises(ValueError, match=r"an optimizer's.*got \['conv.weight'"):
        interop.grad_sum_from_torch(
            random_tensors(), NAMES, LAYOUT, classp_jax.classp(0.1).init(zeros())
        )


def test_a_name_twice_is_refused():
    state_dict, _ = named_optimizer(named=False)
    layout = {"a": interop.Tensor(("a.weight", "b.weight"))}
    del state_dict["param_groups"][1], state_dict["state"][2], state_dict["state"][3]
    state = classp_jax.classp(0.1).init({"a": jnp.zeros((3, 3))})
    with pytest.raises(ValueError, match="each tensor once"):
        interop.grad_sum_from_torch(state_dict, ["a.weight"] * 2, layout, state)


def test_grad_sum_to_torch_compares_shapes_with_the_optimizers():
    state_dict, _ = used_optimizer(random_tensors())
    state_dict = state_dict.state_dict()
    state_dict["state"][0]["grad_sum"] = torch.zeros(3, 2, 4, 5)
    state = classp_jax.classp(0.1).init(zeros())
    message = r"conv.weight must have shape \(3, 2, 4, 5\), got \(3, 2, 5, 4\)"
    with pytest.raises(ValueError, match=message):
        interop.grad_sum_to_torch(state, NAMES, LAYOUT, state_dict)


@pytest.mark.parametrize("factored", [False, True])
def test_sums_of_tied_arrays_go_both_ways(factored):
    layout = {"words": interop.Tensor("w"), "head": interop.Tensor("w", is_kernel=True)}
    weight = torch.nn.Parameter(torch.ones(5, 4))
    optimizer = Classp([("w", weight)], lr=0.1, threshold=0.0)
    weight.grad = torch.outer(torch.arange(1.0, 6), torch.ones(4))
    optimizer.step()
    solver = classp_jax.classp(0.1, factored=factored)
    state = solver.init({"words": jnp.zeros((5, 4)), "head": jnp.zeros((4, 5))})
    state_dict = optimizer.state_dict()
    new = interop.grad_sum_from_torch(state_dict, None, layout, state)
    means = classp_jax.average_grad_sum(new, per_tensor=True)
    assert means == {"words": 3.0, "head": 3.0}
    back = interop.grad_sum_to_torch(new, None, layout, state_dict)["state"]
    torch.testing.assert_close(back[0]["grad_sum"], weight.grad)

    sums = {"words": np.ones((5, 4)), "head": np.full((4, 5), 2.0)}
    new = interop.with_grad_sum(state, sums)
    with pytest.raises(ValueError, match="head must equal words, .* w in PyTorch"):
        interop.grad_sum_to_torch(new, None, layout, state_dict)


def test_sums_of_tied_tensors_go_both_ways():
    layout = {"words": interop.Tensor(("w", "head"))}
    weights = [("w", torch.nn.Parameter(torch.ones(2))), ("head", torch.ones(2))]
    optimizer = Classp(weights, lr=0.1, threshold=0.0)
    for _, weight in weights:
        weight.grad = torch.tensor([1.0, 2.0])
    optimizer.step()
    state_dict = optimizer.state_dict()
    state = classp_jax.classp(0.1).init({"words": jnp.zeros(2)})
    new = interop.grad_sum_from_torch(state_dict, None, layout, state)
    back = interop.grad_sum_to_torch(new, None, layout, state_dict)["state"]
    for number in (0, 1):
        assert back[number]["grad_sum"].tolist() == [1.0, 2.0]
    state_dict["state"][1]["grad_sum"] += 1
    with pytest.raises(ValueError, match="head must equal w, .* words in JAX"):
        interop.grad_sum_from_torch(state_dict, None, layout, state)


def adagrad(initial):
    """PyTorch's AdaGrad with two steps behind it, and what those summed up."""
    torch.manual_seed(0)
    module = torch.nn.ModuleDict({"dense": torch.nn.Linear(3, 2)})
    optimizer = torch.optim.Adagrad(
        module.named_parameters(), lr=0.1, eps=0, initial_accumulator_value=initial
    )
    return module, optimizer


@pytest.mark.parametrize("initial", [0.0, 0.25])
def test_adagrad_goes_on_in_the_other_framework(initial):
    """With p = 2 and its first sum as ε, CLASSP is AdaGrad."""
    module, optimizer = adagrad(initial)

    def step(scale):
        optimizer.zero_grad()
        (module["dense"](torch.ones(4, 3)) * scale).square().mean().backward()
        optimizer.step()

    step(1.0), step(2.0)
    layout = interop.kernel_and_bias("dense")
    params = {"dense": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}
    params = interop.params_from_torch(module.state_dict(), layout, params)
    solver = classp_jax.classp(0.1, power=2, eps=initial or 1e-30)
    middle = optimizer.state_dict()
    state = interop.grad_sum_from_torch(
        middle, None, layout, solver.init(params), accumulator="sum"
    )
    step(3.0)

    def loss(params):
        dense = params["dense"]
        return jnp.mean((3 * (jnp.ones((4, 3)) @ dense["kernel"] + dense["bias"])) ** 2)

    updates, state = solver.update(jax.grad(loss)(params), state, params)
    params = optax.apply_updates(params, updates)
    given = interop.params_to_torch(params, layout)
    for key, tensor in module.state_dict().items():
        torch.testing.assert_close(given[key], tensor, rtol=1e-5, atol=1e-6)

    _, fresh = adagrad(initial)
    back = interop.grad_sum_to_torch(
        state, None, layout, fresh.state_dict(), accumulator="sum"
    )
    fresh.load_state_dict(back)
    after = optimizer.state_dict()["state"]
    for number, kept in fresh.state_dict()["state"].items():
        assert kept.keys() == {"step", "sum"} and kept["step"] == 0
        torch.testing.assert_close(kept["sum"], after[number]["sum"])


def test_another_accumulator_is_named():
    _, optimizer = adagrad(0.0)
    layout = interop.kernel_and_bias("dense")
    params = {"dense": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}
    state, state_dict = classp_jax.classp(0.1).init(params), optimizer.state_dict()
    message = r"dense.weight must have a grad_sum, got \['step', 'sum'\]"
    with pytest.raises(ValueError, match=message):
        interop.grad_sum_from_torch(state_dict, None, layout, state)
    with pytest.raises(ValueError, match=message):
        interop.grad_sum_to_torch(state, None, layout, state_dict)
    state_dict["state"][0]["sum"] = torch.full((2, 3), -1.0)
    with pytest.raises(ValueError, match="dense.kernel .* has values below 0"):
        interop.grad_sum_from_torch(state_dict, None, layout, state, accumulator="sum")


@pytest.mark.parametrize("to_torch", [False, True])
@pytest.mark.parametrize(
    ("change", "names", "message"),
    [
        (lambda s, _: {str(k): v for k, v in s.items()}, None, "no parameter .*: '0'"),
        (lambda s, _: {**s, 7: s[0]}, None, "entries of no parameter .*: 7"),
        (lambda s, _: {**s, "steps": 3}, None, None),
        (lambda s, _: None, None, r"with state and param_groups; got \['param_groups"),
        (lambda _, optimizer: optimizer, None, "param_groups; got Adagrad"),
        (lambda s, _: s, [("dense.weight", 0), ("dense.bias", 1)], "got a tuple"),
        (lambda s, _: s, {"dense.weight": 0, "dense.bias": 1}.keys(), None),
    ],
)
def test_a_state_dict_of_another_form_is_named(change, names, message, to_torch):
    _, optimizer = adagrad(0.0)
    state_dict = optimizer.state_dict()
    changed = change(state_dict["state"], optimizer)
    if changed is None:
        del state_dict["state"]
    elif isinstance(changed, dict):
        state_dict["state"] = changed
    else:
        state_dict = changed
    layout = interop.kernel_and_bias("dense")
    params = {"dense": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}
    state = classp_jax.classp(0.1).init(params)

    def convert():
        if to_torch:
            return interop.grad_sum_to_torch(
                state, names, layout, state_dict, accumulator="sum"
            )
        return interop.grad_sum_from_torch(
            state_dict, names, layout, state, accumulator="sum"
        )

    if message is None:
        convert()
    else:
        with pytest.raises(ValueError, match=message):
            convert()


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor(1e6), "^words.* must be float16.*000000"),
        (torch.tensor(1 + 1j), "^words must be real .* got complex64"),
        (torch.tensor(float("nan")), None),
    ],
)
def test_sums_that_the_dtype_cannot_hold_are_named(value, message, factored):
    solver = classp_jax.classp(0.1, factored=factored, accumulator_dtype="float16")
    state = solver.init({"words": jnp.zeros((4, 3))})
    state_dict = {
        "state": {0: {"grad_sum": value.expand(4, 3)}},
        "param_groups": [{"params": [0]}],
    }
    layout = {"words": interop.Tensor("w")}
    if message is None:
        new = interop.grad_sum_from_torch(state_dict, ["w"], layout, state)
        for sums in jax.tree.leaves(optax.tree.get(new, "grad_sum")):
            assert np.all(np.isnan(sums))
        return
    with pytest.raises(ValueError, match=message):
        interop.grad_sum_from_torch(state_dict, ["w"], layout, state)


def test_with_grad_sum_takes_any_tree_with_the_paths():
    opt_state = classp_jax.classp(0.1, accumulator_dtype="bfloat16").init(zeros())
    nested = jax.tree.map(lambda z: z + 2, zeros())
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(nested)
    }
    variables = nnx.State(jax.tree.map(nnx.Param, nested))
    for grad_sum in (nested, flat, variables):
        new = interop.with_grad_sum(opt_state, grad_sum)
        chex.assert_trees_all_equal_shapes_and_dtypes(new, opt_state)
        assert classp_jax.average_grad_sum(new) == 2


def test_with_grad_sum_tells_paths_apart_that_print_alike():
    params = {"a.b": jnp.zeros(2), "a": {"b": jnp.zeros(2)}}
    opt_state = classp_jax.classp(0.1).init(params)
    grad_sum = {"a.b": np.ones(2), "a": {"b": np.full(2, 3.0)}}
    new = interop.with_grad_sum(opt_state, grad_sum)
    chex.assert_trees_all_equal(optax.tree.get(new, "grad_sum"), grad_sum)


@pytest.mark.parametrize(
    ("grad_sum", "message"),
    [
        ({"a": np.ones(2)}, r"missing: \['b'\], unexpected: none"),
        ({"a": np.ones(2), "b": np.ones(3), "c": np.ones(1)}, r"unexpected: \['c'\]"),
        ({"a": np.ones(2), "b": np.ones(1)}, r"b must have shape \(3,\), got \(1,\)"),
    ],
)
def test_with_grad_sum_names_a_wrong_tensor(grad_sum, message):
    opt_state = classp_jax.classp(0.1).init({"a": jnp.zeros(2), "b": jnp.zeros(3)})
    with pytest.raises(ValueError, match=message):
        interop.with_grad_sum(opt_state, grad_sum)


def test_states_without_or_with_two_accumulators_are_an_error():
    params = {"a": jnp.zeros(2)}
    with pytest.raises(ValueError, match="no CLASSP accumulator"):
        interop.with_grad_sum(optax.adam(0.1).init(params), params)
    scale = classp_jax.scale_by_accumulated_power_norm()
    with pytest.raises(ValueError, match="two accumulators of a"):
        interop.with_grad_sum(optax.chain(scale, scale).init(params), params)


# Files and the import.


class Stranger:
    """An object of a class that no checkpoint should hold."""


def test_load_reads_tensors_and_refuses_other_objects(tmp_path):
    torch.save({"weight": torch.arange(3.0), "step": 4}, tmp_path / "tensors.pt")
    loaded = interop.load(tmp_path / "tensors.pt")
    assert torch.equal(loaded["weight"], torch.arange(3.0)) and loaded["step"] == 4
    torch.save(
        {"weight": torch.arange(3.0), "extra": Stranger()}, tmp_path / "object.pt"
    )
    with pytest.raises(pickle.UnpicklingError, match="Stranger"):
        interop.load(str(tmp_path / "object.pt"))


def archive(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "nothing")


def cut(path):
    torch.save({"weight": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:700])


JUNK = {
    "text": lambda path: path.write_text("weights, please\n" * 9),
    "json": lambda path: path.write_text('{"a": 1}'),
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"a": 1})),
    "an old pickle": lambda path: path.write_bytes(pickle.dumps([1, 2], protocol=2)),
    "array": lambda path: np.save(path.open("wb"), np.ones(3)),
    "arrays": lambda path: np.savez(path.open("wb"), a=np.ones(3)),
    "zip": archive,
    "cut": cut,
    "TorchScript": lambda path: torch.jit.save(
        torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), path
    ),
}


@pytest.mark.filterwarnings("error:.*torch.load")
@pytest.mark.parametrize("name", JUNK)
def test_load_of_junk_is_one_line(name, tmp_path):
    path = tmp_path / "weights.pt"
    JUNK[name](path)
    with pytest.raises(pickle.UnpicklingError) as info:
        interop.load(path)
    message = str(info.value)
    assert "weights.pt' isn't a whole file of torch.save" in message
    assert "state_dict()" in message and "\n" not in message
    assert info.value.__context__ is None


@pytest.mark.parametrize("is_zip", [True, False])
def test_load_of_a_whole_model_says_what_to_save(is_zip, tmp_path):
    path = tmp_path / "model.pt"
    model = {"model": torch.nn.Linear(2, 2)}
    torch.save(model, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(pickle.UnpicklingError) as info:
        interop.load(path)
    message = str(info.value)
    assert "holds a torch.nn.modules.linear.Linear" in message
    assert "model.state_dict()" in message and "\n" not in message


def test_load_of_no_file_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.pt"):
        interop.load(tmp_path / "none.pt")
    with pytest.raises(IsADirectoryError):
        interop.load(tmp_path)


def test_import_brings_in_neither_torch_nor_flax():
    code = (
        "import sys, classp_jax;"
        "assert 'classp_jax.interop' not in sys.modules;"
        "import classp_jax.interop;"
        "print([m for m in ('torch', 'flax') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_without_torch_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # As if it weren't installed.
    with pytest.raises(ImportError, match=r'pip install "classp_jax\[verify\]"'):
        interop.load("weights.pt")
    with pytest.raises(ImportError, match=r'pip install "classp_jax\[verify\]"'):
        interop.params_to_torch(zeros(), LAYOUT)


# Training begun in one framework and gone on with in the other.

RATE, BATCH, FIRST_STEPS, SECOND_STEPS = 0.05, 8, 5, 10


def random_task(rng, steps):
    images = rng.normal(size=(steps, BATCH, 28, 28, 1)).astype(np.float32)
    return images, rng.integers(0, 10, (steps, BATCH))


class TorchRun:
    """The CNN's training in PyTorch, dropout off."""

    def __init__(self):
        self.model = cnn.CNN().eval()
        self.optimizer = Classp(self.model.parameters(), lr=RATE, threshold=0.0)
        self.names = [name for name, _ in self.model.named_parameters()]

    def train(self, task, apply_decay):
        self.optimizer.param_groups[0]["apply_decay"] = apply_decay
        for images, labels in zip(*task, strict=True):
            self.optimizer.zero_grad()
            logits = self.model(torch.tensor(images).permute(0, 3, 1, 2))
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
            loss.backward()
            self.optimizer.step()


class JaxRun:
    """The same in JAX."""

    optimizer = optax.inject_hyperparams(classp_jax.classp, static_args="power")(
        RATE, apply_decay=0.0
    )

    def __init__(self, state_dict):
        self.graphdef, params = nnx.split(CNN(nnx.Rngs(0)), nnx.Param)
        self.params = interop.params_from_torch(state_dict, interop.CNN_LAYOUT, params)
        self.opt_state = self.optimizer.init(self.params)

    # The graph is static and the same for all runs: they share a compilation.
    @staticmethod
    @functools.partial(jax.jit, static_argnums=0)
    def step(graphdef, params, opt_state, images, labels):
        def loss_fn(params):
            logits = nnx.merge(graphdef, params)(images)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean()

        grads = jax.grad(loss_fn)(params)
        updates, opt_state = JaxRun.optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def train(self, task, apply_decay):
        self.opt_state.hyperparams["apply_decay"] = jnp.float32(apply_decay)
        for batch in zip(*task, strict=True):
            self.params, self.opt_state = JaxRun.step(
                self.graphdef, self.params, self.opt_state, *batch
            )


def distance(torch_model, params):
    """The largest of the tensors' relative differences, in the Euclidean norm."""
    ours = interop.params_to_torch(params, interop.CNN_LAYOUT)
    return max(
        ((ours[key] - theirs).norm() / theirs.norm()).item()
        for key, theirs in torch_model.state_dict().items()
    )


def test_second_task_goes_on_in_the_other_framework(tmp_path):
    """Within what the frameworks differ by when each trains on both tasks itself."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    first, second = random_task(rng, FIRST_STEPS), random_task(rng, SECOND_STEPS)
    in_torch = TorchRun()
    in_jax = JaxRun(in_torch.model.state_dict())
    in_torch.train(first, apply_decay=False)
    in_jax.train(first, apply_decay=False)

    torch.save(in_torch.model.state_dict(), tmp_path / "model.pt")
    torch.save(in_torch.optimizer.state_dict(), tmp_path / "optimizer.pt")
    saved = interop.load(tmp_path / "model.pt")
    from_torch, without_sums = JaxRun(saved), JaxRun(saved)
    from_torch.opt_state = interop.grad_sum_from_torch(
        interop.load(tmp_path / "optimizer.pt"),
        in_torch.names,
        interop.CNN_LAYOUT,
        from_torch.opt_state,
    )

    from_jax = TorchRun()
    from_jax.model.load_state_dict(
        interop.params_to_torch(in_jax.params, interop.CNN_LAYOUT)
    )
    from_jax.optimizer.load_state_dict(
        interop.grad_sum_to_torch(
            in_jax.opt_state,
            from_jax.names,
            interop.CNN_LAYOUT,
            from_jax.optimizer.state_dict(),
        )
    )

    for run in (in_torch, in_jax, from_torch, without_sums, from_jax):
        run.train(second, apply_decay=True)
    drift = distance(in_torch.model, in_jax.params)
    assert 0 < drift < 1e-5
    assert distance(in_torch.model, from_torch.params) < 10 * drift
    assert distance(from_jax.model, in_jax.params) < 10 * drift
    assert distance(in_torch.model, without_sums.params) > 0.1
