"""The paper's convolutional network (Section 4.1) in Flax NNX."""

from typing import Any

import jax
from flax import nnx

from examples.models.convolution import convolution, max_pool
from examples.models.initializers import uniform
from examples.models.registry import Model


class CNN(nnx.Module):
    """Two 3x3 convolutions, a max-pool and two dense layers, with dropout between.

    The initial weights and biases follow PyTorch's default distribution, uniform in
    plus or minus 1 / sqrt(fan-in).

    Args:
      rngs: the stream ``params``.
      classes: the number of outputs.
      shape: of an image: height and width, even and 6 at least, and channels.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        classes: int = 10,
        shape: tuple[int, ...] = (28, 28, 1),
    ):
        height, width, channels = shape
        # Each convolution takes two rows and columns, the pooling half of them.
        features = 64 * ((height - 4) // 2) * ((width - 4) // 2)
        self.conv1 = convolution(channels, 32, rngs, padding=0, use_bias=True)
        self.conv2 = convolution(32, 64, rngs, padding=0, use_bias=True)
        self.dropout1 = nnx.Dropout(0.25)
        self.dense1 = nnx.Linear(features, 128, rngs=rngs, **uniform(fan_in=features))
        self.dropout2 = nnx.Dropout(0.5)
        self.dense2 = nnx.Linear(128, classes, rngs=rngs, **uniform(fan_in=128))

    def __call__(
        self, images: jax.Array, *, dropout_rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Classifies a batch of images.

        Args:
          images: (batch, height, width, channels), floating.
          dropout_rngs: the stream ``dropout``; without it dropout is off.

        Returns:
          Logits, (batch, classes).
        """
        dropout: dict[str, Any] = {
            "deterministic": dropout_rngs is None,
            "rngs": dropout_rngs,
        }
        x = nnx.relu(self.conv1(images))
        x = nnx.relu(self.conv2(x))
        x = self.dropout1(max_pool(x), **dropout).reshape(len(images), -1)
        x = nnx.relu(self.dense1(x))
        return self.dense2(self.dropout2(x, **dropout))


MODEL = Model(CNN, "the CNN of CLASSP's paper", ", by the CNN")
