"""The paper's convolutional network (Section 4.1) in Flax NNX."""

import jax
import jax.numpy as jnp
from flax import nnx

from examples.initializers import uniform


class CNN(nnx.Module):
    """Two 3x3 convolutions, a max-pool and two dense layers, with dropout between.

    The initial weights and biases follow PyTorch's default distribution, uniform in
    plus or minus 1 / sqrt(fan-in).

    Args:
      rngs: the stream ``params``.
      classes: the number of outputs.
    """

    def __init__(self, rngs: nnx.Rngs, classes: int = 10):
        self.conv1 = nnx.Conv(
            1, 32, (3, 3), padding="VALID", rngs=rngs, **uniform(fan_in=9)
        )
        self.conv2 = nnx.Conv(
            32, 64, (3, 3), padding="VALID", rngs=rngs, **uniform(fan_in=9 * 32)
        )
        self.dropout1 = nnx.Dropout(0.25)
        self.dense1 = nnx.Linear(9216, 128, rngs=rngs, **uniform(fan_in=9216))
        self.dropout2 = nnx.Dropout(0.5)
        self.dense2 = nnx.Linear(128, classes, rngs=rngs, **uniform(fan_in=128))

    def __call__(
        self, images: jax.Array, *, dropout_rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Classifies a batch of images.

        Args:
          images: (batch, 28, 28, 1), floating.
          dropout_rngs: the stream ``dropout``; without it dropout is off.

        Returns:
          Logits, (batch, classes).
        """
        dropout = {"deterministic": dropout_rngs is None, "rngs": dropout_rngs}
        x = nnx.relu(self.conv1(images))
        x = nnx.relu(self.conv2(x))
        x = self.dropout1(_max_pool(x), **dropout).reshape(len(images), -1)
        x = nnx.relu(self.dense1(x))
        return self.dense2(self.dropout2(x, **dropout))


def _max_pool(x: jax.Array) -> jax.Array:
    # Over 2x2 windows. XLA's CPU backend runs this reshape far faster, forwards and
    # backwards, than the reduce_window of nnx.max_pool.
    batch, height, width, channels = x.shape
    windows = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return jnp.max(windows, axis=(2, 4))
