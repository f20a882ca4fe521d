"""ResNet-18 with group norm; nothing of its size is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from examples.models.resnet18 import Block, ResNet18


def weights_of(classes, channels):
    """He et al. 2016, Table 1: 18 layers, the first one 3x3; without biases."""
    count = 9 * channels * 64
    count += 4 * 9 * 64 * 64
    count += 9 * 64 * 128 + 3 * 9 * 128 * 128 + 64 * 128
    count += 9 * 128 * 256 + 3 * 9 * 256 * 256 + 128 * 256
    count += 9 * 256 * 512 + 3 * 9 * 512 * 512 + 256 * 512
    # A scale and a shift of each channel, behind each convolution.
    count += 2 * (64 + 4 * 64 + 5 * 128 + 5 * 256 + 5 * 512)
    return count + (512 + 1) * classes


@pytest.mark.parametrize(("classes", "side", "channels"), [(100, 32, 3), (10, 28, 1)])
def test_it_has_the_weights_and_logits_of_resnet18(classes, side, channels):
    shape = (side, side, channels)
    model = nnx.eval_shape(lambda: ResNet18(nnx.Rngs(0), classes, shape))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    assert not jax.tree.leaves(rest)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == weights_of(classes, channels)
    if (classes, channels) == (100, 3):
        assert f"there are {count:,} weights" in " ".join(ResNet18.__doc__.split())
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    logits = jax.eval_shape(lambda p, x: nnx.merge(graphdef, p)(x), params, images)
    assert logits.shape == (2, classes)


def test_the_blocks_halve_the_image_three_times(monkeypatch):
    seen = []

    def call(self, x):
        seen.append(x.shape[1:])
        return original(self, x)

    original = Block.__call__
    monkeypatch.setattr(Block, "__call__", call)
    nnx.eval_shape(lambda: ResNet18(nnx.Rngs(0))(jnp.ones((1, 32, 32, 3))))
    sides = [(32, 64)] * 3 + [(16, 128)] * 2 + [(8, 256)] * 2 + [(4, 512)]
    assert seen == [(side, side, channels) for side, channels in sides]


class TorchBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.GroupNorm(32, outputs), nn.GroupNorm(32, outputs)
        self.projects = stride > 1 or inputs != outputs
        if self.projects:
            self.conv3 = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.norm3 = nn.GroupNorm(32, outputs)

    def forward(self, x):
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return (y + (self.norm3(self.conv3(x)) if self.projects else x)).relu()


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(32, 32, 1), (32, 64, 2)])
def test_a_block_equals_pytorchs(inputs, outputs, stride):
    torch.manual_seed(0)
    twin = TorchBlock(inputs, outputs, stride)
    block = Block(inputs, outputs, stride, nnx.Rngs(0))
    for name, layer in twin.named_children():
        ours = getattr(block, name)
        if isinstance(layer, nn.GroupNorm):
            # Scales of one and shifts of zero would hide a mistake.
            twins = (layer.weight, ours.scale), (layer.bias, ours.bias)
            for of_torch, of_flax in twins:
                nn.init.normal_(of_torch)
                of_flax[...] = jnp.asarray(of_torch.detach().numpy())
        else:
            kernel = layer.weight.detach().permute(2, 3, 1, 0)
            assert ours.kernel.shape == tuple(kernel.shape)
            ours.kernel[...] = jnp.asarray(kernel.numpy())
    images = np.random.default_rng(0).normal(size=(2, 6, 4, inputs)).astype(np.float32)
    with torch.no_grad():
        expected = twin(torch.tensor(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(block(images), expected, rtol=0, atol=1e-5)
