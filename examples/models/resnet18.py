"""ResNet-18 for small images, with group norm in place of batch norm."""

import jax
import jax.numpy as jnp
from flax import nnx

from examples.models.convolution import convolution, group_norm
from examples.models.initializers import uniform
from examples.models.registry import Model

# Their channels by their names.
_BLOCKS = {f"block{c}_{i}": c for c in (64, 128, 256, 512) for i in (1, 2)}
_GROUPS = 32


class Block(nnx.Module):
    """Two 3x3 convolutions, to whose output the input is added.

    Where the shapes differ, the input goes through a 1x1 convolution first.

    Args:
      inputs: channels, a multiple of 32.
      outputs: likewise.
      stride: of the first convolution.
      rngs: the stream ``params``.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs):
        self.conv1 = convolution(inputs, outputs, rngs, strides=stride)
        self.norm1 = group_norm(outputs, _GROUPS, rngs)
        self.conv2 = convolution(outputs, outputs, rngs)
        self.norm2 = group_norm(outputs, _GROUPS, rngs)
        self.projects = stride != 1 or inputs != outputs
        if self.projects:
            self.conv3 = convolution(inputs, outputs, rngs, size=1, strides=stride)
            self.norm3 = group_norm(outputs, _GROUPS, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (batch, height, width, inputs) to as many outputs.

        Args:
          x: floating.

        Returns:
          (batch, height / stride, width / stride, outputs), rounded up.
        """
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.projects:
            x = self.norm3(self.conv3(x))
        return nnx.relu(x + y)


class ResNet18(nnx.Module):
    """The residual network of 18 layers, as continual learning trains it on CIFAR.

    The first convolution is 3x3 with stride 1, and no max-pool follows, as the images
    are small. Two blocks each of 64, 128, 256 and 512 channels halve the image three
    times; the mean over all places goes to a dense layer. With 3 channels and 100
    classes there are 11,220,132 weights.

    Group norm with 32 groups replaces batch norm. The initial weights follow PyTorch's
    default distribution.

    Args:
      rngs: the stream ``params``.
      classes: the number of outputs.
      shape: of an image: height, width, channels.

    References:
      He et al., Deep Residual Learning for Image Recognition, 2016, Table 1,
      https://arxiv.org/abs/1512.03385
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        classes: int = 100,
        shape: tuple[int, ...] = (32, 32, 3),
    ):
        channels = next(iter(_BLOCKS.values()))
        self.conv = convolution(shape[-1], channels, rngs)
        self.norm = group_norm(channels, _GROUPS, rngs)
        for name, width in _BLOCKS.items():
            stride = 2 if width > channels else 1
            setattr(self, name, Block(channels, width, stride, rngs))
            channels = width
        self.dense = nnx.Linear(
            channels, classes, rngs=rngs, **uniform(fan_in=channels)
        )

    def __call__(
        self, images: jax.Array, *, dropout_rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Classifies a batch of images.

        Args:
          images: (batch, height, width, channels), floating.
          dropout_rngs: unused; there is no dropout.

        Returns:
          Logits, (batch, classes).
        """
        del dropout_rngs
        x = nnx.relu(self.norm(self.conv(images)))
        for name in _BLOCKS:
            x = getattr(self, name)(x)
        logits: jax.Array = self.dense(jnp.mean(x, axis=(1, 2)))
        return logits


MODEL = Model(ResNet18, "ResNet-18 for 32x32 images, with group norm", ", by ResNet-18")
