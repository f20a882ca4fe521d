"""The Flax models against their PyTorch twins, with the same weights."""

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
from examples.models.transformer import Transformer
from tests.reference import cnn, transformer

VOCABULARY, CLASSES, BATCH = 50, 3, 8
SMALL = dict(width=24, heads=6, inner_width=32)


def cnn_twins():
    return CNN(nnx.Rngs(0)), cnn.CNN(), interop.CNN_LAYOUT


def transformer_twins(**sizes):
    flax_model = Transformer(nnx.Rngs(0), VOCABULARY, **sizes)
    torch_model = transformer.Transformer(VOCABULARY, **sizes)
    # Biases of zero and scales of one would hide a mistake.
    with torch.no_grad():
        for weight in torch_model.parameters():
            if weight.ndim == 1:
                weight += 0.3 * torch.randn_like(weight)
    return flax_model, torch_model, interop.TRANSFORMER_LAYOUT


TWINS = {"cnn": cnn_twins, "transformer": lambda: transformer_twins(**SMALL)}


def twins(name, dtype):
    """The PyTorch twin, dropout off, the Flax graph and PyTorch's weights for it."""
    torch.manual_seed(0)
    flax_model, torch_model, layout = TWINS[name]()
    torch_model.to(getattr(torch, np.dtype(dtype).name)).eval()
    graphdef, params = nnx.split(flax_model, nnx.Param)
    params = jax.tree.map(lambda p: p.astype(dtype), params)
    params = interop.params_from_torch(torch_model.state_dict(), layout, params)
    return torch_model, graphdef, params, layout


def inputs_for(name, dtype):
    """The same batch as the Flax and as the PyTorch model takes it."""
    rng = np.random.default_rng(1)
    if name == "cnn":
        images = rng.normal(size=(BATCH, 28, 28, 1)).astype(dtype)
        return images, torch.tensor(images).permute(0, 3, 1, 2)
    tokens = rng.integers(0, VOCABULARY, (BATCH, 11))
    return tokens.astype(np.int32), torch.tensor(tokens)


@pytest.mark.parametrize(
    ("dtype", "logits_tolerance", "gradient_tolerance"),
    [(np.float32, 1e-5, 1e-4), (np.float64, 1e-10, 1e-10)],
)
@pytest.mark.parametrize("name", TWINS)
def test_logits_and_gradients_equal_pytorch(
    name, dtype, logits_tolerance, gradient_tolerance
):
    with jax.enable_x64(dtype == np.float64):
        torch_model, graphdef, params, layout = twins(name, dtype)
        inputs, torch_inputs = inputs_for(name, dtype)
        labels = np.arange(BATCH, dtype=np.int32) % CLASSES

        @jax.jit
        def logits_and_gradients(params):
            def loss_fn(params):
                logits = nnx.merge(graphdef, params)(inputs)
                losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
                return losses.mean(), logits

            (_, logits), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
            return logits, grads

        logits, grads = logits_and_gradients(params)
        torch_logits = torch_model(torch_inputs)
        torch.nn.functional.cross_entropy(
            torch_logits, torch.tensor(labels, dtype=torch.long)
        ).backward()
        assert logits.dtype == dtype
        np.testing.assert_allclose(
            logits, torch_logits.detach(), rtol=0, atol=logits_tolerance
        )
        # The gradients travel as the weights do: a round trip of the axes as well.
        actual = interop.params_to_torch(grads, layout)
        for key, weight in torch_model.named_parameters():
            error = (actual[key] - weight.grad).abs().max()
            assert error <= gradient_tolerance * weight.grad.abs().max(), key


def test_logits_equal_pytorch_at_the_papers_width():
    torch.manual_seed(0)
    flax_model, torch_model, layout = transformer_twins()
    graphdef, params = nnx.split(flax_model, nnx.Param)
    params = interop.params_from_torch(torch_model.state_dict(), layout, params)
    tokens, torch_tokens = inputs_for("transformer", np.float32)
    with torch.no_grad():
        expected = torch_model.eval()(torch_tokens)
    np.testing.assert_allclose(
        nnx.merge(graphdef, params)(tokens), expected, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("name", TWINS)
def test_weights_survive_the_round_trip_to_the_bit(name):
    torch_model, _, params, layout = twins(name, np.float32)
    state_dict = interop.params_to_torch(params, layout)
    assert all(
        torch.equal(state_dict[k], v) for k, v in torch_model.state_dict().items()
    )
    torch_model.load_state_dict(state_dict)  # Strict: every key, every shape.
    again = interop.params_from_torch(torch_model.state_dict(), layout, params)
    chex.assert_trees_all_equal(again, params)


def test_transformer_has_pytorchs_initial_distributions():
    width, inner_width = 600, 2048
    model = Transformer(nnx.Rngs(0), 2 * VOCABULARY)
    params = nnx.to_pure_dict(nnx.state(model))
    encoder = params["encoder"]
    assert params.keys() == {"embedding", "norm", "encoder", "classifier"}

    def has_deviation(leaf, expected):
        # As near as so many samples of a distribution without long tails come.
        return abs(leaf.std() / expected - 1) < 4 / leaf.size**0.5

    embedding = params["embedding"]
    assert embedding.shape == (2 * VOCABULARY, width)
    assert has_deviation(embedding, 1) and np.abs(embedding).max() > 3

    uniform = {
        "in_proj": (encoder["in_proj"]["kernel"], (width, 3 * width), 6 / (4 * width)),
        "out_proj": (encoder["out_proj"]["kernel"], (width, width), 1 / width),
    }
    layers = {
        "dense1": (encoder["dense1"], width, inner_width),
        "dense2": (encoder["dense2"], inner_width, width),
        "classifier": (params["classifier"], width, CLASSES),
    }
    for name, (layer, fan_in, out) in layers.items():
        uniform[f"{name}.kernel"] = layer["kernel"], (fan_in, out), 1 / fan_in
        uniform[f"{name}.bias"] = layer["bias"], (out,), 1 / fan_in
    for name, (leaf, shape, squared_bound) in uniform.items():
        assert leaf.shape == shape, name
        assert np.abs(leaf).max() <= squared_bound**0.5, name
        assert has_deviation(leaf, (squared_bound / 3) ** 0.5), name

    for layer in (encoder["in_proj"], encoder["out_proj"]):
        assert np.all(layer["bias"] == 0)
    for norm in (params["norm"], encoder["norm1"], encoder["norm2"]):
        assert norm["scale"].shape == norm["bias"].shape == (width,)
        assert np.all(norm["scale"] == 1) and np.all(norm["bias"] == 0)


def test_transformer_has_pytorchs_initial_deviations():
    """The twin agrees with what the test above says of PyTorch."""
    torch.manual_seed(0)
    model = Transformer(nnx.Rngs(0), VOCABULARY)
    torch_model = transformer.Transformer(VOCABULARY)
    layout = interop.TRANSFORMER_LAYOUT
    ours = interop.params_to_torch(nnx.state(model, nnx.Param), layout)
    for key, theirs in torch_model.state_dict().items():
        if theirs.numel() > 100:
            actual, expected = ours[key].std().item(), theirs.std().item()
            assert actual == pytest.approx(expected, rel=8 / theirs.numel() ** 0.5), key


def test_transformer_dropout_is_off_unless_given_a_stream():
    model = Transformer(nnx.Rngs(0), VOCABULARY, **SMALL)
    tokens, _ = inputs_for("transformer", np.float32)
    np.testing.assert_array_equal(model(tokens), model(tokens))
    dropped = [model(tokens, dropout_rngs=nnx.Rngs(dropout=i)) for i in (1, 1, 2)]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert np.any(dropped[0] != dropped[2])
    assert np.any(dropped[0] != model(tokens))


def test_transformer_dropout_has_pytorchs_distribution():
    """The logits of one text under many dropout masks: their mean and deviation."""
    torch.manual_seed(0)
    flax_model, torch_model, layout = transformer_twins(**SMALL)
    with torch.no_grad():  # So that the blocks' dropout counts for as much as theirs.
        for linear in (
            torch_model.encoder.self_attn.out_proj,
            torch_model.encoder.linear2,
        ):
            linear.weight *= 8
    graphdef, params = nnx.split(flax_model, nnx.Param)
    params = interop.params_from_torch(torch_model.state_dict(), layout, params)
    samples = 20_000
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (1, 4))
    repeated = np.repeat(tokens, samples, axis=0)
    with torch.no_grad():
        expected = torch_model.train()(torch.tensor(repeated)).numpy()
    dropout_rngs = nnx.Rngs(dropout=0)
    model = nnx.merge(graphdef, params)
    actual = np.asarray(model(jnp.asarray(repeated), dropout_rngs=dropout_rngs))
    deviation, standard_error = expected.std(axis=0), (2 / samples) ** 0.5
    # Without any one of the five dropouts one of these is above 5 standard errors.
    difference = (actual.mean(axis=0) - expected.mean(axis=0)) / deviation
    assert np.abs(difference).max() < 4 * standard_error
    ratio = actual.std(axis=0) / deviation
    assert np.abs(ratio - 1).max() < 4 * standard_error


def test_transformer_shows_a_token_outside_its_vocabulary():
    model = Transformer(nnx.Rngs(0), VOCABULARY, **SMALL)
    logits = model(jnp.array([[0, 1], [0, VOCABULARY]]))
    np.testing.assert_array_equal(np.isnan(logits), [[False] * 3, [True] * 3])


def test_transformer_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="heads must divide width, got 7 and 24"):
        Transformer(nnx.Rngs(0), VOCABULARY, width=24, heads=7)


@pytest.mark.parametrize("padding", [1, 5])
def test_masked_padding_changes_nothing(padding):
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, VOCABULARY, (BATCH, 6))
    padded = np.pad(tokens, ((0, 0), (0, padding)))
    model = Transformer(nnx.Rngs(0), VOCABULARY, **SMALL, mask_padding=True)
    as_in_the_paper = Transformer(nnx.Rngs(0), VOCABULARY, **SMALL)
    np.testing.assert_allclose(model(padded), model(tokens), rtol=0, atol=1e-5)
    np.testing.assert_allclose(model(tokens), as_in_the_paper(tokens), rtol=0, atol=0)
    assert np.abs(as_in_the_paper(padded) - as_in_the_paper(tokens)).max() > 0.01
    # A text of padding alone is still one of something.
    assert np.all(np.isfinite(model(np.zeros((1, 4), np.int32))))


def test_positions_make_the_order_matter():
    tokens = np.array([[3, 4, 5, 6], [5, 3, 4, 6]])
    first, second = Transformer(nnx.Rngs(0), VOCABULARY, **SMALL)(tokens)
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-5)
    model = Transformer(nnx.Rngs(0), VOCABULARY, **SMALL, positions=True)
    first, second = model(tokens)
    assert np.abs(first - second).max() > 0.001
    # Added to the embedding, sine and cosine by turns, the slowest wave last.
    rates = 10_000.0 ** (-np.arange(12) / 12)
    angles = np.arange(4)[:, None] * rates
    waves = np.empty((4, 24))
    waves[:, ::2], waves[:, 1::2] = np.sin(angles), np.cos(angles)
    x = model.embedding[...][tokens] + waves
    expected = model.classifier(model.norm(model.encoder(model.norm(x))))
    np.testing.assert_allclose(model(tokens), expected, rtol=0, atol=1e-5)


def test_transformer_positions_need_an_even_width():
    with pytest.raises(ValueError, match="width must be even for positions, got 15"):
        Transformer(nnx.Rngs(0), VOCABULARY, width=15, heads=5, positions=True)


def test_padding_is_an_embedding_of_zeros_that_stays():
    tokens = np.array([[3, 4, 0, 0], [5, 3, 4, 6]])
    model = Transformer(nnx.Rngs(0), VOCABULARY, **SMALL)
    assert np.all(model.embedding[0] == 0)
    grads = nnx.jit(nnx.grad(lambda model: jnp.sum(model(tokens) ** 2)))(model)
    moved = np.flatnonzero(np.abs(grads.embedding[...]).max(axis=1))
    np.testing.assert_array_equal(moved, [3, 4, 5, 6])


@pytest.mark.parametrize(
    "make_model", [CNN, lambda rngs: Transformer(rngs, vocabulary=42_991)]
)
def test_factored_sums_take_less_than_a_tenth_of_a_byte_a_weight(make_model):
    params = jax.eval_shape(lambda: nnx.state(make_model(nnx.Rngs(0)), nnx.Param))
    opt_state = jax.eval_shape(classp_jax.classp(0.1, factored=True).init, params)
    kept = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(opt_state))
    assert kept < 0.1 * sum(p.size for p in jax.tree.leaves(params))
