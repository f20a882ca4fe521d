"""Layers of PyTorch and Flax with the same weights: outputs and sums of gradients."""

import copy
import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen, nnx

import classp_jax
from classp_jax import interop
from tests.reference.optimizer import Classp


class Case(NamedTuple):
    """A layer in both frameworks; ``layout`` has its paths and keys."""

    in_torch: object
    in_jax: object
    layout: dict
    inputs: tuple  # The shape, in JAX's order of axes; None for tokens.
    call: object = lambda module, x: module(x)
    layout_of_sums: dict | None = None
    ignore: str | tuple = ()


def kernel_and_bias(transposed):
    return {
        "kernel": interop.Tensor("weight", is_kernel=True, transposed=transposed),
        "bias": interop.Tensor("bias"),
    }


def convolution(n, inputs, outputs, *, groups=1):
    rngs = nnx.Rngs(0)
    return Case(
        getattr(torch.nn, f"Conv{n}d")(inputs, outputs, 3, groups=groups),
        nnx.Conv(
            *(inputs, outputs, (3,) * n),
            padding="VALID",
            feature_group_count=groups,
            rngs=rngs,
        ),
        kernel_and_bias(transposed=False),
        (2, *range(7, 7 + n), inputs),
    )


def transposed_convolution(n, inputs, outputs, *, transpose_kernel=False):
    return Case(
        # Windows of 3 two apart overlap, so that one turned round is seen.
        getattr(torch.nn, f"ConvTranspose{n}d")(inputs, outputs, 3, stride=2),
        nnx.ConvTranspose(
            *(inputs, outputs, (3,) * n),
            strides=(2,) * n,
            padding="VALID",
            transpose_kernel=transpose_kernel,
            rngs=nnx.Rngs(0),
        ),
        kernel_and_bias(transposed=not transpose_kernel),
        (2, *range(4, 4 + n), inputs),
    )


def batch_norm():
    module = torch.nn.BatchNorm2d(4).eval()
    torch.nn.init.normal_(module.weight)
    torch.nn.init.normal_(module.bias)
    module.running_mean.normal_()
    module.running_var.uniform_(1, 2)
    return Case(
        module,
        nnx.BatchNorm(4, use_running_average=True, rngs=nnx.Rngs(0)),
        {
            "scale": interop.Tensor("weight"),
            "bias": interop.Tensor("bias"),
            "mean": interop.Tensor("running_mean"),
            "var": interop.Tensor("running_var"),
        },
        (2, 5, 6, 4),
        ignore="num_batches_*",
    )


HEADS, HEAD, FEATURES = 2, 4, 8


def kernels_of_heads(packed):
    return [w.T.reshape(FEATURES, HEADS, HEAD) for w in np.split(packed, 3)]


def packed_kernels(*kernels):
    return np.concatenate([k.reshape(FEATURES, FEATURES).T for k in kernels])


def biases_of_heads(packed):
    return list(packed.reshape(3, HEADS, HEAD))


def packed_biases(*biases):
    return np.concatenate([b.reshape(FEATURES) for b in biases])


OUT = {
    "out.kernel": interop.Tensor(
        "out_proj.weight",
        to_jax=lambda w: w.T.reshape(HEADS, HEAD, FEATURES),
        to_torch=lambda k: k.reshape(FEATURES, FEATURES).T,
    ),
    "out.bias": interop.Tensor("out_proj.bias"),
}


def attention():
    module = torch.nn.MultiheadAttention(FEATURES, HEADS, batch_first=True)
    torch.nn.init.normal_(module.in_proj_bias)
    torch.nn.init.normal_(module.out_proj.bias)
    names = ("query", "key", "value")
    return Case(
        module,
        nnx.MultiHeadAttention(HEADS, FEATURES, decode=False, rngs=nnx.Rngs(0)),
        {
            tuple(f"{name}.kernel" for name in names): interop.Tensor(
                "in_proj_weight", to_jax=kernels_of_heads, to_torch=packed_kernels
            ),
            tuple(f"{name}.bias" for name in names): interop.Tensor(
                "in_proj_bias", to_jax=biases_of_heads, to_torch=packed_biases
            ),
            **OUT,
        },
        (3, 5, FEATURES),
        call=lambda module, x: (
            module(x)
            if isinstance(module, nnx.Module)
            else module(x, x, x, need_weights=False)[0]
        ),
    )


class SeparateProjections(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q = torch.nn.Linear(FEATURES, FEATURES)
        self.k = torch.nn.Linear(FEATURES, FEATURES)
        self.v = torch.nn.Linear(FEATURES, FEATURES)

    def forward(self, x):
        packed = torch.stack([self.q(x), self.k(x), self.v(x)], -2)
        return packed.unflatten(-1, (HEADS, HEAD))


def separate_projections():
    """Three tensors of PyTorch in one array of JAX."""
    return Case(
        SeparateProjections(),
        nnx.LinearGeneral(FEATURES, (3, HEADS, HEAD), rngs=nnx.Rngs(0)),
        {
            "kernel": interop.Tensor(
                ("q.weight", "k.weight", "v.weight"),
                to_jax=lambda *w: np.stack(
                    [x.T.reshape(FEATURES, HEADS, HEAD) for x in w], 1
                ),
                to_torch=lambda kernel: [
                    kernel[:, i].reshape(FEATURES, FEATURES).T for i in range(3)
                ],
            ),
            "bias": interop.Tensor(
                ("q.bias", "k.bias", "v.bias"),
                to_jax=lambda *b: np.stack(b).reshape(3, HEADS, HEAD),
                to_torch=lambda bias: bias.reshape(3, FEATURES),
            ),
        },
        (3, FEATURES),
    )


def lstm():
    gates = ("i", "f_", "g", "o"), ("i", "f", "g", "o")
    of_input, of_state = (
        tuple(f"cell.{kind}{gate}" for gate in names)
        for kind, names in zip("ih", gates, strict=True)
    )
    kernels = {
        tuple(f"{path}.kernel" for path in paths): interop.Tensor(
            key,
            to_jax=lambda w: [gate.T for gate in np.split(w, 4)],
            to_torch=lambda *kernels: np.concatenate([k.T for k in kernels]),
        )
        for paths, key in ((of_input, "weight_ih_l0"), (of_state, "weight_hh_l0"))
    }
    paths = tuple(f"{path}.bias" for path in of_state)
    keys = ("bias_ih_l0", "bias_hh_l0")

    def added(ih, hh):
        return np.split(ih + hh, 4)

    def first(*biases):
        return np.concatenate(biases), np.zeros(16, biases[0].dtype)

    def equal(ih, hh):
        np.testing.assert_array_equal(ih, hh)
        return np.split(ih, 4)

    def both(*biases):
        return (np.concatenate(biases),) * 2

    return Case(
        torch.nn.LSTM(3, 4, batch_first=True),
        nnx.RNN(nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0)),
        kernels | {paths: interop.Tensor(keys, to_jax=added, to_torch=first)},
        (2, 5, 3),
        call=lambda module, x: (
            module(x) if isinstance(module, nnx.Module) else module(x)[0]
        ),
        layout_of_sums={paths: interop.Tensor(keys, to_jax=equal, to_torch=both)},
    )


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(7, 4)
        self.head = torch.nn.Linear(4, 7, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens):
        return self.head(self.words(tokens))


def embedding():
    layout = {"embedding": interop.Tensor("weight")}
    return Case(
        torch.nn.Embedding(7, 4), nnx.Embed(7, 4, rngs=nnx.Rngs(0)), layout, None
    )


def tied_embedding():
    """One array of JAX under two names of PyTorch."""
    return Case(
        Tied(),
        nnx.Embed(7, 4, rngs=nnx.Rngs(0)),
        {"embedding": interop.Tensor(("words.weight", "head.weight"))},
        None,
        call=lambda module, x: (
            module.attend(module(x)) if isinstance(module, nnx.Module) else module(x)
        ),
    )


CASES = {
    "batch norm": batch_norm,
    "attention": attention,
    "separate projections": separate_projections,
    "LSTM": lstm,
    "embedding": embedding,
    "tied embedding": tied_embedding,
    "depthwise convolution": functools.partial(convolution, 2, 4, 8, groups=4),
    "grouped convolution": functools.partial(convolution, 2, 4, 6, groups=2),
    **{
        f"convolution {n}d, {inputs} to {outputs}": functools.partial(
            convolution, n, inputs, outputs
        )
        for n, inputs, outputs in ((1, 4, 4), (2, 4, 4), (2, 4, 6), (3, 4, 4))
    },
    **{
        f"transposed {n}d, {inputs} to {outputs}, {flag}": functools.partial(
            transposed_convolution, n, inputs, outputs, transpose_kernel=flag
        )
        for n, inputs, outputs in ((1, 4, 4), (2, 4, 4), (2, 4, 6), (3, 4, 4))
        for flag in (False, True)
    },
}


def is_convolution(module):
    return isinstance(module, torch.nn.modules.conv._ConvNd | torch.nn.BatchNorm2d)


def output_in_torch(case, module, inputs):
    inputs = torch.tensor(inputs)
    if not is_convolution(module):
        return case.call(module, inputs)
    channels_first = inputs.movedim(-1, 1)
    return case.call(module, channels_first).movedim(1, -1)


def sums_in_torch(case, inputs, weights):
    """The state of an optimizer behind one step, and the parameters' names."""
    names, parameters = zip(*case.in_torch.named_parameters(), strict=True)
    optimizer = Classp(parameters, lr=0.1, threshold=0.0)
    output = output_in_torch(case, case.in_torch, inputs)
    (output * torch.tensor(weights)).sum().backward()
    optimizer.step()
    return optimizer.state_dict(), names


@pytest.mark.parametrize("name", CASES)
def test_a_layer_has_the_same_outputs_and_sums_in_both(name):
    torch.manual_seed(0)
    case = CASES[name]()
    rng = np.random.default_rng(0)
    inputs = (
        rng.integers(0, 7, (2, 5))
        if case.inputs is None
        else rng.normal(size=case.inputs).astype(np.float32)
    )
    expected = output_in_torch(case, case.in_torch, inputs).detach().numpy()
    state_dict = copy.deepcopy(case.in_torch.state_dict())
    state = nnx.state(case.in_jax, (nnx.Param, nnx.BatchStat))
    weights = interop.params_from_torch(
        state_dict, case.layout, state, ignore=case.ignore
    )
    nnx.update(case.in_jax, weights)
    np.testing.assert_allclose(case.call(case.in_jax, inputs), expected, atol=1e-5)

    # One step's sums, by each framework's own gradients.
    of_output = rng.normal(size=expected.shape).astype(np.float32)
    in_torch, names = sums_in_torch(case, inputs, of_output)
    grads = nnx.grad(lambda m: (case.call(m, inputs) * of_output).sum())(case.in_jax)
    solver = classp_jax.scale_by_accumulated_power_norm()
    fresh = solver.init(nnx.state(case.in_jax, nnx.Param))
    _, in_jax = solver.update(grads, fresh)
    layout = case.layout | (case.layout_of_sums or {})
    taken = interop.grad_sum_from_torch(in_torch, names, layout, fresh)
    tolerance = dict(rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(taken.grad_sum, in_jax.grad_sum, **tolerance)
    given = interop.grad_sum_to_torch(taken, names, layout, in_torch)
    for number, kept in in_torch["state"].items():
        assert torch.equal(given["state"][number]["grad_sum"], kept["grad_sum"])

    # And back, into a layer of other weights.
    other = CASES[name]().in_torch
    tensors = interop.params_to_torch(weights, case.layout)
    other.load_state_dict({**other.state_dict(), **tensors})
    actual = output_in_torch(case, other, inputs).detach().numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_linen_keeps_a_transposed_convolution_as_nnx_does(transpose_kernel):
    torch.manual_seed(0)
    case = transposed_convolution(2, 4, 4, transpose_kernel=transpose_kernel)
    module = linen.ConvTranspose(
        *(4, (3, 3), (2, 2)), padding="VALID", transpose_kernel=transpose_kernel
    )
    inputs = np.random.default_rng(0).normal(size=case.inputs).astype(np.float32)
    params = module.init(jax.random.key(0), inputs)["params"]
    layout = interop.kernel_and_bias("up", transposed=not transpose_kernel)
    state_dict = {f"up.{k}": v for k, v in case.in_torch.state_dict().items()}
    params = interop.params_from_torch(state_dict, layout, {"up": params})["up"]
    expected = output_in_torch(case, case.in_torch, inputs).detach().numpy()
    actual = module.apply({"params": params}, inputs)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("to_torch", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_what_may_be_a_transposed_convolution_is_asked_about(n, to_torch):
    """Its weight has a convolution's shape where inputs equal outputs."""
    params = {"up": {"kernel": jnp.zeros((3,) * n + (4, 4)), "bias": jnp.zeros(4)}}
    layout = interop.kernel_and_bias("up")
    state_dict = {
        "up.weight": torch.zeros((4, 4) + (3,) * n),
        "up.bias": torch.zeros(4),
    }
    with pytest.raises(ValueError, match="up.weight .*transposed=False or transposed"):
        if to_torch:
            interop.params_to_torch(params, layout)
        else:
            interop.params_from_torch(state_dict, layout, params)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(key=()), "needs a key"),
        (dict(transposed=True), "w is transposed or not, as only a convolution's"),
        (dict(is_kernel=True, transposed=False, flattened=(2, 3)), "w is transposed"),
        (dict(to_jax=np.asarray), "w needs both to_jax and to_torch"),
        (
            dict(is_kernel=True, to_jax=np.asarray, to_torch=np.asarray),
            "w is a kernel, which has functions already",
        ),
    ],
)
def test_a_tensor_of_contradictions_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        interop.Tensor(**{"key": "w", **arguments})


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({("a", "b"): interop.Tensor("w")}, "a, b are made of w together"),
        (
            {
                "a": interop.Tensor("v"),
                ("a", "b"): interop.Tensor("w", to_jax=np.split, to_torch=np.stack),
            },
            "two entries for a",
        ),
        (
            {
                ("a", "b"): interop.Tensor(
                    "w", to_jax=lambda w: np.split(w, 3), to_torch=np.stack
                )
            },
            r"to_jax must return .* for each of a, b, from w \(6,\): it returned 3",
        ),
        (
            {
                ("a", "b"): interop.Tensor(
                    "w", to_jax=lambda w: w.reshape(2, 4), to_torch=np.stack
                )
            },
            r"to_jax .* a, b, from w \(6,\): cannot reshape array of size 6",
        ),
        (
            {
                ("a", "b"): interop.Tensor(
                    "w", to_jax=lambda w: np.split(w, 2), to_torch=np.stack
                )
            },
            r"b must have shape \(2,\), got \(3,\)",
        ),
        (
            {"a": interop.Tensor("w", is_kernel=True, transposed=True)},
            r"w is a kernel, with two axes or more; got shape \(6,\)",
        ),
    ],
)
def test_a_layout_that_does_not_fit_is_named(layout, message):
    params = {"a": jnp.zeros(3), "b": jnp.zeros(2)}
    with pytest.raises(ValueError, match=message):
        interop.params_from_torch({"w": torch.zeros(6)}, layout, params)


def test_a_transposed_kernel_has_a_window():
    layout = {"a": interop.Tensor("w", is_kernel=True, transposed=True)}
    with pytest.raises(ValueError, match=r"w is transposed.*a window.*\(3, 3\)"):
        interop.params_to_torch({"a": jnp.zeros((3, 3))}, layout)


def test_sums_need_all_tensors_that_a_function_takes():
    case = separate_projections()
    names = [name for name, _ in case.in_torch.named_parameters()]
    optimizer = Classp([p for n, p in case.in_torch.named_parameters() if n[0] != "k"])
    names = [name for name in names if name[0] != "k"]
    state = classp_jax.classp(0.1).init(nnx.state(case.in_jax, nnx.Param))
    for convert in (
        lambda: interop.grad_sum_from_torch(
            optimizer.state_dict(), names, case.layout, state
        ),
        lambda: interop.grad_sum_to_torch(
            state, names, case.layout, optimizer.state_dict()
        ),
    ):
        with pytest.raises(ValueError, match=r"missing: \['k.weight'\]"):
            convert()


def test_what_a_function_takes_without_state_counts_as_zeros():
    case = separate_projections()
    names, parameters = zip(*case.in_torch.named_parameters(), strict=True)
    optimizer = Classp(parameters, lr=0.1, threshold=0.0)
    case.in_torch.q(torch.ones(2, FEATURES)).sum().backward()
    optimizer.step()
    state = classp_jax.classp(0.1).init(nnx.state(case.in_jax, nnx.Param))
    new = interop.grad_sum_from_torch(optimizer.state_dict(), names, case.layout, state)
    kernel = optax.tree.get(new, "grad_sum")["kernel"][...]
    assert np.all(kernel[:, 0] == 2) and not np.any(kernel[:, 1:])


@pytest.mark.parametrize("factored", [False, True])
def test_the_sums_of_packed_kernels_may_be_factored(factored):
    case = attention()
    names, parameters = zip(*case.in_torch.named_parameters(), strict=True)
    optimizer = Classp(parameters, lr=0.1, threshold=0.0)
    for parameter in parameters:
        # Of rank one for each head, which the sums of rows and columns hold.
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    solver = classp_jax.classp(0.1, factored=factored)
    state = solver.init(nnx.state(case.in_jax, nnx.Param))
    arguments = names, case.layout
    new = interop.grad_sum_from_torch(optimizer.state_dict(), *arguments, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
    back = interop.grad_sum_to_torch(new, *arguments, optimizer.state_dict())
    for number, kept in optimizer.state_dict()["state"].items():
        torch.testing.assert_close(back["state"][number]["grad_sum"], kept["grad_sum"])
