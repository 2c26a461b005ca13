"""The residual block of the score network."""

from typing import Literal

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from sdejax.nn.attention import skip_sum
from sdejax.nn.layers import Conv, Dense, GroupNorm, dropout
from sdejax.nn.resample import downsample, upsample


class ResidualBlock(nnx.Module):
    """norm, swish, (resample), conv, + embedding, norm, swish, dropout, conv, + skip.

    This is DDPM's block (Ho et al. 2020); with resampling inside it is BigGAN's (Brock et al. 2019). `embedding` is the
    width of the vector that conditions the block, 0 for none. `groups` are the groups of its two norms, None for the
    usual number.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        *,
        resample: Literal["none", "down", "up"] = "none",
        fir: bool = False,
        dropout_rate: float = 0.0,
        rescale: bool = False,
        groups: tuple[int | None, int | None] = (None, None),
        epsilon: float = 1e-6,
    ):
        self.resample, self.fir = resample, fir
        self.dropout_rate, self.rescale = dropout_rate, rescale
        self.norm0 = GroupNorm(inputs, dtype, groups=groups[0], epsilon=epsilon)
        self.conv0 = Conv(inputs, outputs, 3, dtype, rngs)
        self.embed = Dense(embedding, outputs, dtype, rngs) if embedding else None
        self.norm1 = GroupNorm(outputs, dtype, groups=groups[1], epsilon=epsilon)
        self.conv1 = Conv(outputs, outputs, 3, dtype, rngs, zero=True)
        self.skip = Dense(inputs, outputs, dtype, rngs) if inputs != outputs or resample != "none" else None

    def __call__(
        self,
        x: Float[Array, "b h w inputs"],
        embedding: Float[Array, "b width"] | None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b h2 w2 outputs"]:
        """The block of images x, conditioned by `embedding`; `key` is for dropout."""
        h = self.norm0.swished(x)
        if self.resample == "down":
            h, x = downsample(h, self.fir), downsample(x, self.fir)
        elif self.resample == "up":
            h, x = upsample(h, self.fir), upsample(x, self.fir)
        h = self.conv0(h)
        if self.embed is not None and embedding is not None:
            h = h + self.embed(embedding)[:, None, None, :]
        h = self.conv1(dropout(self.norm1.swished(h), self.dropout_rate, key))
        return skip_sum(x if self.skip is None else self.skip(x), h, self.rescale)
