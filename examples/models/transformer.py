"""The paper's text classifier (Section 4.2) in Flax NNX."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from examples.models.initializers import uniform

PAD = 0  # The token behind the end of a text.
_DROPOUT = 0.1
_LONGEST_WAVE = 10_000  # Of the positions, over two pi, as usual.
_TOGETHER = 25  # How many texts' dropout is drawn at once: what fits a CPU's cache.


class Transformer(nnx.Module):
    """An embedding, one layer of a transformer encoder and a dense layer.

    As in the paper's experiment the encoder knows neither positions nor padding, the
    layer norm before it is also the one after it, and the class is read from the last
    position, which is padding behind a short text, an embedding of zeros that isn't
    trained. ``positions`` and ``mask_padding`` are for those who want it otherwise.

    The initial weights and biases follow PyTorch's default distributions.

    Args:
      rngs: the stream ``params``.
      vocabulary: the number of different tokens.
      width: the number of features of a token.
      heads: the number of attention heads; divides ``width``.
      inner_width: the number of hidden units of the feed-forward block.
      classes: the number of outputs.
      positions: whether sines and cosines of its position are added to each token's
        embedding (Vaswani et al. 2017, Section 3.5).
      mask_padding: whether tokens of 0 are left out of the attention, and the class is
        read from the last other one.

    Raises:
      ValueError: if ``heads`` doesn't divide ``width``, or ``positions`` are wanted and
        ``width`` is odd.
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
        positions: bool = False,
        mask_padding: bool = False,
    ):
        if positions and width % 2:
            raise ValueError(f"width must be even for positions, got {width}.")
        # nnx.Embed would compute in float32 whatever dtype the weights later have.
        embedding = jax.random.normal(rngs.params(), (vocabulary, width))
        self.embedding = nnx.Param(embedding.at[PAD].set(0))
        self.positions, self.mask_padding = positions, mask_padding
        self.norm = _layer_norm(width, rngs)
        self.encoder = EncoderLayer(rngs, width, heads, inner_width)
        self.classifier = nnx.Linear(width, classes, rngs=rngs, **uniform(width))

    def __call__(
        self, tokens: jax.Array, *, dropout_rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Classifies a batch of texts.

        Args:
          tokens: (batch, length), integer, below ``vocabulary`` (another makes its
            text's logits NaN); 0 is padding.
          dropout_rngs: the stream ``dropout``; without it dropout is off.

        Returns:
          Logits, (batch, classes).
        """
        x = jnp.take(self.embedding[...], tokens, axis=0)
        # As with PyTorch's padding_idx.
        is_padding = (jnp.asarray(tokens) == PAD)[..., None]
        x = jnp.where(is_padding, jax.lax.stop_gradient(x), x)
        if self.positions:
            x += _waves(*x.shape[1:]).astype(x.dtype)
        if dropout_rngs is not None:
            x = _drop(x, dropout_rngs.dropout())
        real = None
        if self.mask_padding:
            # Of a text without any token its first position is read.
            real = jnp.asarray(tokens != PAD).at[:, 0].set(True)
        x = self.encoder(self.norm(x), real, dropout_rngs=dropout_rngs)
        return self.classifier(self.norm(x))


class EncoderLayer(nnx.Module):
    """Self-attention, then a feed-forward block, each normalised after its sum.

    It computes what PyTorch's ``nn.TransformerEncoderLayer`` does, for one position
    alone: no other is read, and its query, attention and feed-forward block don't
    depend on theirs.

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
        self.dropout = nnx.Dropout(_DROPOUT)

    def __call__(
        self,
        x: jax.Array,
        real: jax.Array | None = None,
        *,
        dropout_rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """Encodes the last position of a batch of sequences.

        Args:
          x: (batch, length, width), floating.
          real: which positions there are, (batch, length), bool, at least one a
            sequence; by default all.
          dropout_rngs: the stream ``dropout``; without it dropout is off.

        Returns:
          The last (real) position's features, (batch, width).
        """

        def dropout(y: jax.Array) -> jax.Array:
            return self.dropout(
                y, deterministic=dropout_rngs is None, rngs=dropout_rngs
            )

        def by_head(y: jax.Array) -> jax.Array:
            return jnp.moveaxis(y.reshape(-1, self.heads, head_width), 1, 0)

        batch, length, width = x.shape
        head_width = width // self.heads
        last = x[:, -1]
        if real is not None:
            positions = jnp.where(real, jnp.arange(length), 0)
            last = x[jnp.arange(batch), positions.max(axis=1)]
        assert self.in_proj.bias is not None
        kernel, bias = self.in_proj.kernel[...], self.in_proj.bias[...]
        query = by_head(last @ kernel[:, :width] + bias[:width])
        of_keys, of_values = (
            by_head(part) for part in jnp.split(kernel[:, width:], 2, axis=1)
        )
        # (x W_k) · q = x · (W_k q): no token needs a key of its own, nor, likewise, a
        # value. The keys' bias adds as much to all of a head's scores: nothing.
        query = jnp.swapaxes(query @ jnp.swapaxes(of_keys, 1, 2), 0, 1)
        scores = jnp.einsum("bhw,blw->bhl", query, x) / math.sqrt(head_width)
        if real is not None:
            scores = jnp.where(real[:, None], scores, -jnp.inf)
        weights = dropout(nnx.softmax(scores))
        attended = jnp.swapaxes(jnp.einsum("bhl,blw->bhw", weights, x), 0, 1)
        attended = jnp.swapaxes(attended @ of_values, 0, 1)
        of_values_bias = bias[2 * width :].reshape(self.heads, head_width)
        # Dropout leaves weights that don't add up to 1.
        attended += weights.sum(axis=-1, keepdims=True) * of_values_bias
        attended = attended.reshape(batch, width)

        y = self.norm1(last + dropout(self.out_proj(attended)))
        hidden = dropout(nnx.relu(self.dense1(y)))
        features: jax.Array = self.norm2(y + dropout(self.dense2(hidden)))
        return features


def _layer_norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, rngs=rngs)


def _drop(x: jax.Array, key: jax.Array) -> jax.Array:
    """Dropout of (batch, ...), each text's drawn with a key of its own.

    As ``nnx.Dropout`` does, but without the random bits of the whole batch in memory
    at once: on a CPU, a quarter of the time.
    """
    share = 1 - _DROPOUT
    draw = functools.partial(jax.random.bernoulli, p=share, shape=x.shape[1:])
    keys = jax.random.split(key, len(x))
    if jax.default_backend() == "cpu":
        keep = jax.lax.map(draw, keys, batch_size=min(_TOGETHER, len(x)))
    else:
        keep = jax.vmap(draw)(keys)
    return jnp.where(keep, x / share, 0)


def _waves(length: int, width: int) -> jax.Array:
    """Sines and cosines of the positions, (length, width)."""
    rates = _LONGEST_WAVE ** (-jnp.arange(0, width, 2) / width)
    angles = jnp.arange(length)[:, None] * rates
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(length, width)
