"""The Transformer over bytes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples.models.decoder import Decoder, rotate

SMALL = dict(width=16, layers=2, heads=2)
TEXT = np.random.default_rng(0).integers(0, 256, (2, 12)).astype(np.uint8)


def decoder(seed=0, **kwargs):
    return Decoder(nnx.Rngs(seed), **(SMALL | kwargs))


def test_a_later_byte_does_not_change_what_is_said_before_it():
    model = jax.jit(decoder())
    logits = model(TEXT)
    assert logits.shape == (2, 12, 256)
    changed = model(np.where(np.arange(12) == 7, TEXT + 1, TEXT).astype(np.uint8))
    np.testing.assert_allclose(changed[:, :7], logits[:, :7], atol=1e-6)
    for at in range(7, 12):
        assert np.abs(changed[:, at] - logits[:, at]).max() > 1e-3, at


def test_products_of_turned_queries_and_keys_depend_on_their_distance_alone():
    query, key = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)

    def everywhere(x):
        return rotate(jnp.broadcast_to(x, (1, 10, 1, 8)))[0, :, 0]

    products = np.asarray(everywhere(query) @ everywhere(key).T)
    for distance in range(-9, 10):
        same = np.diagonal(products, distance)
        np.testing.assert_allclose(same, same[0], atol=1e-5)
    firsts = np.append(products[0], products[1:, 0])
    assert len(np.unique(firsts.round(3))) == 19
    lengths = np.linalg.norm(everywhere(query), axis=-1)
    np.testing.assert_allclose(lengths, np.linalg.norm(query), rtol=1e-6)


def test_the_order_of_earlier_bytes_matters():
    """By the rotary positions alone."""
    text = TEXT.copy()
    text[:, [2, 5]] = text[:, [5, 2]]
    model = jax.jit(decoder(layers=1))
    assert np.abs(model(text)[:, -1] - model(TEXT)[:, -1]).max() > 1e-3


def test_all_kernels_are_matrices_and_all_variables_parameters():
    state = nnx.state(decoder())
    assert not nnx.to_flat_state(nnx.state(decoder(), nnx.Not(nnx.Param)))
    for path, variable in nnx.to_flat_state(state):
        assert variable.ndim == (1 if path[-1] == "scale" else 2), path


def test_the_default_has_about_a_million_weights():
    model = nnx.eval_shape(lambda: Decoder(nnx.Rngs(0)))
    assert 0.8e6 < sum(p.size for p in jax.tree.leaves(nnx.state(model))) < 1.2e6


def test_adapters_change_nothing_at_first():
    plain, adapted = decoder(), decoder(seed=1, lora_rank=2)
    nnx.update(adapted, nnx.state(plain))
    chex.assert_trees_all_equal(jax.jit(adapted)(TEXT), jax.jit(plain)(TEXT))
    adapters = nnx.to_flat_state(nnx.state(adapted, nnx.LoRAParam))
    kernels = [p for p, _ in nnx.to_flat_state(nnx.state(plain)) if p[-1] == "kernel"]
    # Two factors of each matrix; the first of them is random.
    assert len(adapters) == 2 * len(kernels) == 2 * (2 * 4 + 1)
    for path, variable in adapters:
        assert np.any(variable[...]) == (path[-1] == "lora_a"), path


@pytest.mark.parametrize("heads", [3, 16])
def test_a_width_that_heads_do_not_divide_is_refused(heads):
    with pytest.raises(ValueError, match=f"twice the heads, {2 * heads}, .* got 16"):
        nnx.eval_shape(functools.partial(decoder, heads=heads))
