"""The paper's convolutional network (Section 4.1) in Flax NNX."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from examples.models.initializers import uniform
from examples.models.registry import Model


class CNN(nnx.Module):
    """Two 3x3 convolutions, a max-pool and two dense layers, with dropout between.

    The initial weights and biases follow PyTorch's default distribution, uniform in
    plus or minus 1 / sqrt(fan-in).

    Args:
      rngs: the stream ``params``.
      classes: the number of outputs.
    """

    def __init__(self, rngs: nnx.Rngs, classes: int = 10):
        self.conv1 = _convolution(1, 32, rngs)
        self.conv2 = _convolution(32, 64, rngs)
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
        dropout: dict[str, Any] = {
            "deterministic": dropout_rngs is None,
            "rngs": dropout_rngs,
        }
        x = nnx.relu(self.conv1(images))
        x = nnx.relu(self.conv2(x))
        x = self.dropout1(_max_pool(x), **dropout).reshape(len(images), -1)
        x = nnx.relu(self.dense1(x))
        return self.dense2(self.dropout2(x, **dropout))


def _convolution(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        outputs,
        (3, 3),
        padding="VALID",
        conv_general_dilated=_convolve,
        rngs=rngs,
        **uniform(fan_in=9 * inputs),
    )


def _convolve(
    images: jax.Array, kernel: jax.Array, *args: Any, **kwargs: Any
) -> jax.Array:
    """``lax.conv_general_dilated`` without padding, strides and dilation.

    In a loop XLA's CPU backend drops to a convolution many times slower than outside,
    and a matrix product over patches is the fastest of all there.
    """
    if jax.default_backend() != "cpu":
        return jax.lax.conv_general_dilated(images, kernel, *args, **kwargs)
    height, width, inputs, outputs = kernel.shape
    batch, rows, columns = images.shape[0], images.shape[1] - 2, images.shape[2] - 2
    patches = jnp.concatenate(
        [
            images[:, i : i + rows, j : j + columns]
            for i in range(height)
            for j in range(width)
        ],
        axis=-1,
    )
    # Two axes alone, so that XLA sees one large product.
    flat = patches.reshape(-1, height * width * inputs) @ kernel.reshape(-1, outputs)
    return flat.reshape(batch, rows, columns, outputs)


def _max_pool(x: jax.Array) -> jax.Array:
    # Over 2x2 windows. XLA's CPU backend runs this reshape far faster, forwards and
    # backwards, than the reduce_window of nnx.max_pool.
    batch, height, width, channels = x.shape
    windows = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return jnp.max(windows, axis=(2, 4))


MODEL = Model(CNN, "the CNN of CLASSP's paper", ", by the CNN")
