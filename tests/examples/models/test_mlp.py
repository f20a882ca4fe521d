"""The multi-layer perceptron of the streams."""

import numpy as np
from flax import nnx

from examples.models.mlp import MLP


def test_the_mlp_has_the_baselines_size_and_no_dropout():
    params = nnx.state(MLP(nnx.Rngs(0)), nnx.Param)
    shapes = {p.shape for p in nnx.to_flat_state(params).leaves}
    assert {(784, 256), (256, 256), (256, 10)} < shapes
    model, images = MLP(nnx.Rngs(0)), np.ones((3, 28, 28, 1), np.float32)
    np.testing.assert_array_equal(
        model(images), model(images, dropout_rngs=nnx.Rngs(1))
    )
    assert model(images).shape == (3, 10)
