"""The paper's text classifier (Section 4.2) in Flax NNX."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from examples.initializers import uniform


class Transformer(nnx.Module):
    """An embedding, one layer of a transformer encoder and a dense layer.

    The encoder knows neither positions nor padding, the layer norm before it is also
    the one after it, and the class is read from the last position.

    The initial weights and biases follow PyTorch's default distributions.

    Args:
      rngs: the stream ``params``.
      vocabulary: the number of different tokens.
      width: the number of features of a token.
      heads: the number of attention heads; divides ``width``.
      inner_width: the number of hidden units of the feed-forward block.
      classes: the number of outputs.

    Raises:
      ValueError: if ``heads`` doesn't divide ``width``.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        vocabulary: int,
        *,
        width: int = 600,
        heads: int = 30,
        inner_width: int = 2048,
        classes: int = 3,
    ):
        # nnx.Embed would compute in float32 whatever dtype the weights later have.
        self.embedding = nnx.Param(
            jax.random.normal(rngs.params(), (vocabulary, width))
        )
        self.dropout = nnx.Dropout(0.1)
        self.norm = _layer_norm(width, rngs)
        self.encoder = EncoderLayer(rngs, width, heads, inner_width)
        self.classifier = nnx.Linear(width, classes, rngs=rngs, **uniform(width))

    def __call__(
        self, tokens: jax.Array, *, dropout_rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Classifies a batch of texts.

        Args:
          tokens: (batch, length), integer, below ``vocabulary`` (another makes its
            text's logits NaN).
          dropout_rngs: the stream ``dropout``; without it dropout is off.

        Returns:
          Logits, (batch, classes).
        """
        dropout = {"deterministic": dropout_rngs is None, "rngs": dropout_rngs}
        x = jnp.take(self.embedding[...], tokens, axis=0)
        x = self.norm(self.dropout(x, **dropout))
        x = self.encoder(x, dropout_rngs=dropout_rngs)
        return self.classifier(self.norm(x))


class EncoderLayer(nnx.Module):
    """Self-attention, then a feed-forward block, each normalised after its sum.

    It computes what PyTorch's ``nn.TransformerEncoderLayer`` does, for the last
    position alone: no other is read, and its query, attention and feed-forward block
    don't depend on theirs.

    Args:
      rngs: the stream ``params``.
      width: the number of features.
      heads: the number of attention heads; divides ``width``.
      inner_width: the number of hidden units of the feed-forward block.

    Raises:
      ValueError: if ``heads`` doesn't divide ``width``.
    """

    def __init__(self, rngs: nnx.Rngs, width: int, heads: int, inner_width: int):
        if width % heads:
            raise ValueError(f"heads must divide width, got {heads} and {width}.")
        self.heads = heads
        # One tensor for queries, keys and values, as in PyTorch: what CLASSP measures
        # a tensor (a mask, a mean) then means the same in both.
        self.in_proj = nnx.Linear(
            width, 3 * width, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs
        )
        out_init = uniform(width)["kernel_init"]
        self.out_proj = nnx.Linear(width, width, kernel_init=out_init, rngs=rngs)
        self.dense1 = nnx.Linear(width, inner_width, rngs=rngs, **uniform(width))
        self.dense2 = nnx.Linear(inner_width, width, rngs=rngs, **uniform(inner_width))
        self.norm1 = _layer_norm(width, rngs)
        self.norm2 = _layer_norm(width, rngs)
        self.dropout = nnx.Dropout(0.1)

    def __call__(
        self, x: jax.Array, *, dropout_rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Encodes the last position of a batch of sequences.

        Args:
          x: (batch, length, width), floating.
          dropout_rngs: the stream ``dropout``; without it dropout is off.

        Returns:
          The last position's features, (batch, width).
        """

        def dropout(y: jax.Array) -> jax.Array:
            return self.dropout(
                y, deterministic=dropout_rngs is None, rngs=dropout_rngs
            )

        batch, length, width = x.shape
        last, head_width = x[:, -1], width // self.heads
        kernel, bias = self.in_proj.kernel[...], self.in_proj.bias[...]
        query = last @ kernel[:, :width] + bias[:width]
        key_value = x @ kernel[:, width:] + bias[width:]
        query = query.reshape(batch, self.heads, head_width)
        key_value = key_value.reshape(batch, length, 2, self.heads, head_width)
        key, value = key_value[:, :, 0], key_value[:, :, 1]

        scores = jnp.einsum("bhd,blhd->bhl", query, key) / math.sqrt(head_width)
        weights = dropout(nnx.softmax(scores))
        attended = jnp.einsum("bhl,blhd->bhd", weights, value).reshape(batch, width)

        y = self.norm1(last + dropout(self.out_proj(attended)))
        hidden = dropout(nnx.relu(self.dense1(y)))
        return self.norm2(y + dropout(self.dense2(hidden)))


def _layer_norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
