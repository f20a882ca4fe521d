"""What a network's layers multiply by their weights."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples.models.cnn import CNN
from examples.models.mlp import MLP
from examples.runner import layers


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (MLP, ["dense1", "dense2", "dense3"]),
        (CNN, ["conv1", "conv2", "dense1", "dense2"]),
    ],
)
def test_inputs_times_matrices_are_what_the_layers_make(make, names):
    images = np.random.default_rng(0).normal(size=(2, 28, 28, 1)).astype(np.float32)
    model, made = make(nnx.Rngs(0)), {}
    for name in names:
        setattr(model, name, _kept(getattr(model, name), made, name))
    model(images)
    model = make(nnx.Rngs(0))
    matrices = layers.matrices(nnx.state(model, nnx.Param))
    inputs = layers.inputs(model, images)
    assert [".".join(layer) for layer in inputs] == names
    for layer, x in inputs.items():
        chex.assert_trees_all_close(x @ matrices[layer], made[layer[0]], atol=2e-5)


def _kept(layer, made, name):
    """A layer that puts aside what it makes."""

    def call(x):
        made[name] = layer(x)
        return made[name]

    return call


class Strided(nnx.Module):
    def __init__(self, rngs, **options):
        self.conv = nnx.Conv(3, 4, (3, 2), rngs=rngs, **options)

    def __call__(self, images):
        return self.conv(images)


@pytest.mark.parametrize(
    "options",
    [
        dict(strides=(2, 1), padding="SAME"),
        dict(strides=(1, 3), padding="VALID", use_bias=False),
        dict(padding=((1, 0), (2, 1))),
    ],
)
def test_patches_of_strides_and_paddings(options):
    images = jax.random.normal(jax.random.key(0), (2, 7, 9, 3))
    expected = Strided(nnx.Rngs(0), **options)(images)
    model = Strided(nnx.Rngs(0), **options)
    (matrix,) = layers.matrices(nnx.state(model, nnx.Param)).values()
    (patches,) = layers.inputs(model, images).values()
    chex.assert_trees_all_close(patches @ matrix, expected, atol=1e-5)


@pytest.mark.parametrize(
    "options", [dict(kernel_dilation=2), dict(feature_group_count=3)]
)
def test_refuses_groups_and_dilation(options):
    of = {"conv": nnx.Conv(3, 3, (3, 3), rngs=nnx.Rngs(0), **options)}
    with pytest.raises(ValueError, match="without groups and dilation"):
        layers.inputs(nnx.Sequential(*of.values()), jnp.ones((1, 8, 8, 3)))


def test_refuses_a_layer_called_twice():
    layer = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="called twice"):
        layers.inputs(nnx.Sequential(layer, layer), jnp.ones((1, 3)))


def test_matrices_go_back_to_where_they_came_from():
    params = nnx.state(CNN(nnx.Rngs(0)), nnx.Param)
    matrices = layers.matrices(params)
    assert {".".join(k): v.shape for k, v in matrices.items()} == {
        "conv1": (10, 32),
        "conv2": (289, 64),
        "dense1": (9217, 128),
        "dense2": (129, 10),
    }
    chex.assert_trees_all_equal(layers.with_matrices(params, matrices), params)
    some = {layer: 2 * matrices[layer] for layer in [("conv2",), ("dense2",)]}
    doubled = layers.with_matrices(params, some)
    for name in ("conv1", "conv2", "dense1", "dense2"):
        factor = 2 if (name,) in some else 1
        expected = jax.tree.map(lambda p, factor=factor: factor * p, params[name])
        chex.assert_trees_all_equal(doubled[name], expected)
