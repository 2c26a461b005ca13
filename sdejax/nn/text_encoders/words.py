"""A small text encoder over whole words."""

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from sdejax.nn.layers import Dense
from sdejax.text.vocabulary import PAD


class TextEncoder(nnx.Module):
    """Tokens to one vector per word and one per caption.

    Word and position embeddings are added. One residual self-attention lets a word such as "dark" find the word that it
    describes. The vector of the caption is the mean of its words' vectors.
    """

    def __init__(self, vocabulary: int, length: int, width: int, heads: int, dtype: DTypeLike, rngs: nnx.Rngs):
        embedding_init = nnx.initializers.normal(1.0)
        self.heads = heads
        self.dtype = dtype
        self.words = nnx.Embed(vocabulary, width, embedding_init=embedding_init, rngs=rngs)
        self.positions = nnx.Param(0.1 * jax.random.normal(rngs.params(), (length, width)))
        self.norm0 = nnx.LayerNorm(width, rngs=rngs)
        self.qkv = Dense(width, 3 * width, dtype, rngs)
        self.mix = Dense(width, width, dtype, rngs, zero=True)
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.hidden = Dense(width, 2 * width, dtype, rngs)
        self.out = Dense(2 * width, width, dtype, rngs, zero=True)
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)

    def __call__(
        self, tokens: Int[Array, "b length"]
    ) -> tuple[Float[Array, "b length width"], Float[Array, "b width"], Bool[Array, "b length"]]:
        """The vectors of the words, the vector of the caption, and a mask that is true for words."""
        mask = tokens != PAD
        b, length = tokens.shape
        x = self.words(tokens) + self.positions[...]
        qkv = self.qkv(self.norm0(x)).reshape(b, length, 3, self.heads, -1)
        mixed = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], mask=mask[:, None, None, :])
        x = x + self.mix(mixed.reshape(b, length, -1))
        x = x + self.out(nnx.swish(self.hidden(self.norm1(x))))
        x = self.norm2(x)
        weight = mask[:, :, None].astype(x.dtype)
        pooled = (x * weight).sum(1) / weight.sum(1)
        return x.astype(self.dtype), pooled.astype(self.dtype), mask
