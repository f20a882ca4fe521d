"""The paper's convolutional network."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from examples.models.cnn import CNN


def test_cnn_has_the_papers_shapes_and_pytorchs_initial_distribution():
    model = CNN(nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(model))
    shapes = {
        "conv1": ((3, 3, 1, 32), 9),
        "conv2": ((3, 3, 32, 64), 288),
        "dense1": ((9216, 128), 9216),
        "dense2": ((128, 10), 128),
    }
    assert set(params) == set(shapes)
    for name, (shape, fan_in) in shapes.items():
        assert params[name]["kernel"].shape == shape
        for leaf in params[name].values():
            bound = fan_in**-0.5
            assert np.abs(leaf).max() <= bound
            # A uniform distribution's deviation, to what so many samples leave open.
            sampling = 4 / leaf.size**0.5
            assert abs(leaf.std() / (bound / 3**0.5) - 1) < sampling


def test_dropout_is_off_unless_given_a_stream():
    model, images = CNN(nnx.Rngs(0)), jnp.ones((2, 28, 28, 1))
    np.testing.assert_array_equal(model(images), model(images))
    dropped = model(images, dropout_rngs=nnx.Rngs(dropout=1))
    assert np.any(dropped != model(images))
