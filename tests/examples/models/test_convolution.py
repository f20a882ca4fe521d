"""What convolutional networks share, against JAX's own and PyTorch."""

import jax
import numpy as np
import pytest
from flax import nnx

from examples.models.convolution import convolution, max_pool

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 6, 3)).astype(np.float32)


@pytest.mark.parametrize("backend", ["cpu", "tpu"])
@pytest.mark.parametrize(
    ("options", "size"),
    [
        (dict(), (8, 6)),
        (dict(strides=2), (4, 3)),
        (dict(size=1, strides=2), (4, 3)),
        (dict(padding=0, use_bias=True), (6, 4)),
    ],
)
def test_a_convolution_is_jaxs_on_every_backend(monkeypatch, backend, options, size):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    layer = convolution(3, 4, nnx.Rngs(0), **options)
    made = layer(IMAGES)
    assert made.shape == (2, *size, 4)
    assert (layer.bias is not None) == options.get("use_bias", False)
    of_jax = nnx.clone(layer)
    of_jax.conv_general_dilated = jax.lax.conv_general_dilated
    np.testing.assert_allclose(made, of_jax(IMAGES), rtol=0, atol=1e-5)
    bound = (3 * options.get("size", 3) ** 2) ** -0.5
    assert 0.9 * bound < np.abs(layer.kernel[...]).max() <= bound


def test_max_pool_is_flaxs():
    expected = nnx.max_pool(IMAGES, (2, 2), (2, 2))
    np.testing.assert_array_equal(max_pool(IMAGES), expected)
