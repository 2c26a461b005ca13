"""Attention over pixels and words."""

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from sdejax.nn.kernels.attention import attention, one_head_attention
from sdejax.nn.layers import Dense, GroupNorm


def skip_sum(skip: Float[Array, "b h w c"], branch: Float[Array, "b h w c"], rescale: bool) -> Float[Array, "b h w c"]:
    """skip + branch. `rescale` divides by sqrt(2), which keeps the variance (Song et al. 2021, appendix H)."""
    total = skip + branch
    return total * (0.5**0.5) if rescale else total


def attend(
    query: Float[Array, "b n heads c"],
    key: Float[Array, "b m heads c"],
    value: Float[Array, "b m heads c"],
    mask: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b n heads c"]:
    """softmax(query key^T / sqrt(c)) value for each head; `mask` is true for what is attended to."""
    if query.shape[2] == 1 and mask is None:
        return jax.lax.platform_dependent(query, key, value, cpu=one_head_attention, default=attention)
    return attention(query, key, value, mask)


class Attention(nnx.Module):
    """Multi-head attention of the pixels to the pixels, or to the words of a text.

    The output projection starts at 0, so the block starts as the identity (up to the rescaling of the sum).
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

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        text: Float[Array, "b words width"] | None = None,
        mask: Bool[Array, "b words"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """x plus what it attends to: its own pixels, or the words of `text`; `mask` is true for words."""
        b, h, w, c = x.shape
        pixels = self.norm(x).reshape(b, h * w, c)
        source = pixels if text is None else text
        query, key, value = (
            layer(y).reshape(b, -1, self.heads, c // self.heads)
            for layer, y in ((self.query, pixels), (self.key, source), (self.value, source))
        )
        mixed = attend(query, key, value, mask)
        return skip_sum(x, self.out(mixed.reshape(b, h * w, c)).reshape(x.shape), self.rescale)
