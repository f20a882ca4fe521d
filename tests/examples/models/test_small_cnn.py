"""The small network for colour."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples.models.small_cnn import SmallCNN


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1)])
def test_it_takes_images_of_several_sizes_and_has_so_many_weights(shape):
    model = nnx.eval_shape(lambda: SmallCNN(nnx.Rngs(0), 7, shape))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    assert not jax.tree.leaves(rest)
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    logits = jax.eval_shape(lambda p, x: nnx.merge(graphdef, p)(x), params, images)
    assert logits.shape == (2, 7)
    kernels = 9 * (shape[2] * 32 + 32 * 64 + 64 * 128)
    norms, dense = 2 * (32 + 64 + 128), (128 + 1) * 7
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == kernels + norms + dense


def test_what_it_makes_of_an_image_depends_on_it_alone():
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    model = SmallCNN(nnx.Rngs(0), 7)
    logits = nnx.jit(lambda model, x: model(x))(model, images)
    one, two = nnx.jit(lambda model, x: model(x))(model, images[[2, 0]])
    np.testing.assert_allclose(one, logits[2], rtol=0, atol=1e-5)
    np.testing.assert_allclose(two, logits[0], rtol=0, atol=1e-5)
    assert np.abs(logits[0] - logits[2]).max() > 0.01


def test_with_3_channels_and_10_classes_it_has_what_its_documentation_says():
    of = nnx.eval_shape(lambda: SmallCNN(nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(of)))
    assert f"there are {count:,} weights" in " ".join(SmallCNN.__doc__.split())
