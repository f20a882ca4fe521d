"""A small convolutional network with group norm, which two cores train."""

import jax
import jax.numpy as jnp
from flax import nnx

from examples.models.convolution import convolution, group_norm, max_pool
from examples.models.initializers import uniform
from examples.models.registry import Model

_WIDTHS = (32, 64, 128)
_GROUPS = 8


class SmallCNN(nnx.Module):
    """Three 3x3 convolutions, each with group norm and ReLU, and a dense layer.

    Behind each of the first two is a 2x2 max-pool, behind the third the mean over all
    places: height and width must be multiples of 4. Group norm has 8 groups. The
    initial weights follow PyTorch's default distribution. With 3 channels and 10
    classes there are 94,762 weights.

    Args:
      rngs: the stream ``params``.
      classes: the number of outputs.
      shape: of an image: height, width, channels.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        classes: int = 10,
        shape: tuple[int, ...] = (32, 32, 3),
    ):
        first, second, third = _WIDTHS
        self.conv1 = convolution(shape[-1], first, rngs)
        self.norm1 = group_norm(first, _GROUPS, rngs)
        self.conv2 = convolution(first, second, rngs)
        self.norm2 = group_norm(second, _GROUPS, rngs)
        self.conv3 = convolution(second, third, rngs)
        self.norm3 = group_norm(third, _GROUPS, rngs)
        self.dense = nnx.Linear(third, classes, rngs=rngs, **uniform(fan_in=third))

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
        x = max_pool(nnx.relu(self.norm1(self.conv1(images))))
        x = max_pool(nnx.relu(self.norm2(self.conv2(x))))
        x = nnx.relu(self.norm3(self.conv3(x)))
        logits: jax.Array = self.dense(jnp.mean(x, axis=(1, 2)))
        return logits


MODEL = Model(
    SmallCNN, "three convolutions with group norm, for colour", ", by the small CNN"
)
