"""The multi-layer perceptron of the streams' published baselines in Flax NNX."""

import jax
from flax import nnx

from examples.models.initializers import uniform
from examples.models.registry import Model


class MLP(nnx.Module):
    """Two hidden layers of 256 rectified units, no dropout.

    It is the default network of the Continual Learning Baselines of Avalanche. The
    initial weights and biases follow PyTorch's default distribution.

    Args:
      rngs: the stream ``params``.
      classes: the number of outputs.
      inputs: the number of pixels.
      hidden: the units of each hidden layer.
      use_bias: whether the layers have biases.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        classes: int = 10,
        inputs: int = 784,
        hidden: int = 256,
        use_bias: bool = True,
    ):
        def linear(fan_in: int, fan_out: int) -> nnx.Linear:
            return nnx.Linear(
                fan_in,
                fan_out,
                use_bias=use_bias,
                rngs=rngs,
                **uniform(fan_in=fan_in),
            )

        self.dense1 = linear(inputs, hidden)
        self.dense2 = linear(hidden, hidden)
        self.dense3 = linear(hidden, classes)

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
        x = nnx.relu(self.dense1(images.reshape(len(images), -1)))
        return self.dense3(nnx.relu(self.dense2(x)))


MODEL = Model(MLP, "784-256-256-10 with ReLU, as Avalanche's baselines have it")
