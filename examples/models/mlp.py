"""The multi-layer perceptron of the streams' published baselines in Flax NNX."""

import itertools
import math

import jax
from flax import nnx

from examples.models.initializers import uniform
from examples.models.registry import Model


class MLP(nnx.Module):
    """Hidden layers of rectified units, no dropout.

    Two of 256 are the default network of the Continual Learning Baselines of Avalanche.
    The initial weights and biases follow PyTorch's default distribution.

    Args:
      rngs: the stream ``params``.
      classes: the number of outputs.
      shape: of an image.
      hidden: the units of each hidden layer.
      hidden_layers: how many there are.
      use_bias: whether the layers have biases.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        classes: int = 10,
        shape: tuple[int, ...] = (28, 28, 1),
        hidden: int = 256,
        hidden_layers: int = 2,
        use_bias: bool = True,
    ):
        sizes = [math.prod(shape), *[hidden] * hidden_layers, classes]
        for number, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes), start=1):
            layer = nnx.Linear(
                fan_in,
                fan_out,
                use_bias=use_bias,
                rngs=rngs,
                **uniform(fan_in=fan_in),
            )
            setattr(self, f"dense{number}", layer)
        self._hidden_layers = hidden_layers

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
        x = images.reshape(len(images), -1)
        for number in range(1, self._hidden_layers + 1):
            x = nnx.relu(getattr(self, f"dense{number}")(x))
        logits: jax.Array = getattr(self, f"dense{self._hidden_layers + 1}")(x)
        return logits


MODEL = Model(MLP, "two layers of 256 with ReLU, as Avalanche's baselines have")
