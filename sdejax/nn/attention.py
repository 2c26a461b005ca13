"""Attention over pixels and words."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from sdejax.nn.layers import Dense, GroupNorm


def skip_sum(skip: jax.Array, branch: jax.Array, rescale: bool) -> jax.Array:
    """skip + branch; over sqrt(2) with `rescale`, which keeps the variance (Song et al. 2021, appendix H)."""
    total = skip + branch
    return total * (0.5**0.5) if rescale else total


def attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """softmax(query key / sqrt(c)) value: (b, n, heads, c), (b, m, heads, c) twice, mask (b, m) -> (b, n, heads, c).

    By the platform's fused kernel where it has one. On the CPU one head is two plain products of matrices: laid out as
    several heads, it takes twice the time.
    """

    def fused(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        seen = None if mask is None else mask[:, None, None, :]
        return jax.nn.dot_product_attention(query, key, value, mask=seen)

    def one_head(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        q, k, v = query[:, :, 0], key[:, :, 0], value[:, :, 0]
        logits = jnp.einsum("bnc,bmc->bnm", q * q.shape[-1] ** -0.5, k).astype(jnp.float32)
        weights = jax.nn.softmax(logits).astype(v.dtype)
        return jnp.einsum("bnm,bmc->bnc", weights, v)[:, :, None]

    if query.shape[2] > 1 or mask is not None:
        return fused(query, key, value)
    return jax.lax.platform_dependent(query, key, value, cpu=one_head, default=fused)


class Attention(nnx.Module):
    """Multi-head attention over the pixels, with the pixels or a text as what is attended to.

    The output projection starts at zero, so the block starts as the identity (up to the skip rescaling).
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        *,
        text: int = 0,
        rescale: bool = False,
        groups: int | None = None,
        epsilon: float = 1e-6,
    ):
        if channels % heads:
            raise ValueError(f"heads={heads}: must divide the {channels} channels of the attention")
        self.heads = heads
        self.rescale = rescale
        self.norm = GroupNorm(channels, dtype, groups=groups, epsilon=epsilon)
        self.query = Dense(channels, channels, dtype, rngs)
        self.key = Dense(text or channels, channels, dtype, rngs)
        self.value = Dense(text or channels, channels, dtype, rngs)
        self.out = Dense(channels, channels, dtype, rngs, zero=True)

    def __call__(self, x: jax.Array, text: jax.Array | None = None, mask: jax.Array | None = None) -> jax.Array:
        """x: (b, h, w, c); text: (b, words, width) with mask (b, words), true where there is a word."""
        b, h, w, c = x.shape
        pixels = self.norm(x).reshape(b, h * w, c)
        source = pixels if text is None else text
        query, key, value = (
            layer(y).reshape(b, -1, self.heads, c // self.heads)
            for layer, y in ((self.query, pixels), (self.key, source), (self.value, source))
        )
        mixed = attend(query, key, value, mask)
        return skip_sum(x, self.out(mixed.reshape(b, h * w, c)).reshape(x.shape), self.rescale)
