"""One wide hidden layer: as it is initialised, random features of the pixels."""

import functools

import jax
from flax import nnx

from examples.models.initializers import uniform
from examples.models.registry import Model


class OneHiddenLayer(nnx.Module):
    """One hidden layer of rectified units, no dropout.

    The initial weights and biases follow PyTorch's default distribution.

    Args:
      rngs: the stream ``params``.
      classes: the number of outputs.
      inputs: the number of pixels.
      hidden: the units of the hidden layer.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        classes: int = 10,
        inputs: int = 784,
        hidden: int = 4000,
    ):
        sizes = [(inputs, hidden), (hidden, classes)]
        self.dense1, self.dense2 = (
            nnx.Linear(*size, rngs=rngs, **uniform(fan_in=size[0])) for size in sizes
        )

    def __call__(
        self, images: jax.Array, *, dropout_rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Classifies a batch of images.

        Args:
          images: (batch, ...), floating; what follows the batch is one image.
          dropout_rngs: unused; there is no dropout.

        Returns:
          Logits, (batch, classes).
        """
        del dropout_rngs
        return self.dense2(nnx.relu(self.dense1(images.reshape(len(images), -1))))


def of_units(hidden: int) -> Model:
    """The model with so many hidden units."""
    return Model(
        functools.partial(OneHiddenLayer, hidden=hidden),
        f"784-{hidden}-10 with ReLU",
        f", by 784-{hidden}-10",
    )


MODEL = of_units(4000)
