"""A decoder-only Transformer over bytes, which says what byte comes next."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

BYTES = 256
_LONGEST_WAVE = 10_000.0
_HIDDEN = 8 / 3  # SwiGLU's units by the width: of three matrices as much as of two.


class Decoder(nnx.Module):
    """Pre-norm blocks of causal attention and SwiGLU, with rotary positions.

    No layer has biases, and the head isn't the embedding, as in Llama (Touvron et al.
    2023). All kernels are matrices, inputs by outputs.

    Args:
      rngs: random streams of the initial weights.
      width: of the residual stream; a multiple of twice ``heads``.
      layers: blocks.
      heads: of attention.
      lora_rank: the rank of the low-rank adapters that every matrix of the blocks and
        the head then have, :class:`nnx.LoRAParam`; they begin as 0. By default none
        has any.

    Raises:
      ValueError: a head would have no even number of units.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        lora_rank: int | None = None,
    ):
        if width % (2 * heads):
            raise ValueError(
                f"width must be a multiple of twice the heads, {2 * heads}, as rotary"
                f" positions turn pairs of a head's units, got {width}."
            )
        linear = functools.partial(_linear, lora_rank=lora_rank, rngs=rngs)
        self.embedding = nnx.Embed(BYTES, width, rngs=rngs)
        self.blocks = nnx.List(
            [_Block(width, heads, linear, rngs) for _ in range(layers)]
        )
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.head = linear(width, BYTES)

    def __call__(
        self, tokens: jax.Array, *, dropout_rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Computes the logits of the byte behind each.

        Args:
          tokens: (batch, context), integer.
          dropout_rngs: unused: there is no dropout.

        Returns:
          (batch, context, 256).
        """
        del dropout_rngs
        x = self.embedding(tokens.astype(jnp.int32))
        for block in self.blocks:
            x = block(x)
        logits: jax.Array = self.head(self.norm(x))
        return logits


class _Block(nnx.Module):
    """Attention, then an MLP, each on the norm of what it is added to."""

    def __init__(self, width: int, heads: int, linear: Any, rngs: nnx.Rngs):
        hidden = 8 * round(_HIDDEN * width / 8)
        self.heads = heads
        self.norm1 = nnx.RMSNorm(width, rngs=rngs)
        self.query_key_value = linear(width, 3 * width)
        self.out = linear(width, width)
        self.norm2 = nnx.RMSNorm(width, rngs=rngs)
        self.gate_up = linear(width, 2 * hidden)
        self.down = linear(hidden, width)

    def __call__(self, x: jax.Array) -> jax.Array:
        x += self._attention(self.norm1(x))
        gate, up = jnp.split(self.gate_up(self.norm2(x)), 2, axis=-1)
        added: jax.Array = self.down(nnx.silu(gate) * up)
        return x + added

    def _attention(self, x: jax.Array) -> jax.Array:
        batch, context, width = x.shape
        of_heads = self.query_key_value(x).reshape(batch, context, 3, self.heads, -1)
        query, key, value = jnp.moveaxis(of_heads, 2, 0)
        attended = jax.nn.dot_product_attention(
            rotate(query), rotate(key), value, is_causal=True
        )
        out: jax.Array = self.out(attended.reshape(batch, context, width))
        return out


def rotate(x: jax.Array) -> jax.Array:
    """Rotary positions (Su et al. 2021, https://arxiv.org/abs/2104.09864).

    The product of a query and a key turned so depends on their distance alone.

    Args:
      x: queries or keys, (batch, context, heads, units), the units even in number.

    Returns:
      The same, unit i and that half of them further on turned by an angle that grows
      with the position.
    """
    context, units = x.shape[1], x.shape[-1]
    rates = _LONGEST_WAVE ** (-jnp.arange(0, units, 2) / units)
    angles = (jnp.arange(context)[:, None] * rates)[:, None]
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    first, second = jnp.split(x, 2, axis=-1)
    turned = [first * cos - second * sin, first * sin + second * cos]
    return jnp.concatenate(turned, axis=-1)


def _linear(
    inputs: int, outputs: int, *, lora_rank: int | None, rngs: nnx.Rngs
) -> nnx.Linear:
    if lora_rank is None:
        return nnx.Linear(inputs, outputs, use_bias=False, rngs=rngs)
    return nnx.LoRALinear(
        inputs, outputs, lora_rank=lora_rank, use_bias=False, rngs=rngs
    )
