"""The multi-layer perceptron of the streams."""

import numpy as np
from flax import nnx

from examples.models.mlp import MLP
from examples.models.registry import models


def test_the_mlp_has_the_baselines_size_and_no_dropout():
    params = nnx.state(MLP(nnx.Rngs(0)), nnx.Param)
    shapes = {p.shape for p in nnx.to_flat_state(params).leaves}
    assert {(784, 256), (256, 256), (256, 10)} < shapes
    model, images = MLP(nnx.Rngs(0)), np.ones((3, 28, 28, 1), np.float32)
    np.testing.assert_array_equal(
        model(images), model(images, dropout_rngs=nnx.Rngs(1))
    )
    assert model(images).shape == (3, 10)


def test_wide_ones_have_one_hidden_layer():
    for name, hidden in (("wide", 4000), ("wide_1000", 1000)):
        model = models()[name].make(nnx.Rngs(0), classes=10)
        shapes = [p.shape for p in nnx.to_flat_state(nnx.state(model)).leaves]
        assert {*shapes} == {(10,), (784, hidden), (hidden,), (hidden, 10)}
        assert model(np.ones((3, 28, 28, 1), np.float32)).shape == (3, 10)


def test_gpms_has_a_hundred_units_and_no_biases():
    params = nnx.state(models()["mlp_100"].make(nnx.Rngs(0), classes=10), nnx.Param)
    shapes = sorted(p.shape for p in nnx.to_flat_state(params).leaves)
    assert shapes == [(100, 10), (100, 100), (784, 100)]
