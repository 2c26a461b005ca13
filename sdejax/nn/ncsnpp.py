"""NCSN++ and DDPM++ (Song et al. 2021, appendix H), with optional text conditioning.

A U-Net of BigGAN residual blocks. DDPM++ embeds the time by sinusoids and resamples plainly; NCSN++ embeds the
logarithm of the noise level by random Fourier features and resamples with a FIR filter. Captions, where a model
has them, enter twice: their mean vector is added to the time embedding, and the pixels attend to their words.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from sdejax.nn.layers import (
    Attention,
    FourierEmbedding,
    GroupNorm,
    PositionalEmbedding,
    ResidualBlock,
    conv,
    dense,
    downsample,
    from_patches,
    to_patches,
    upsample,
)
from sdejax.nn.text import TextEncoder


@dataclasses.dataclass(frozen=True)
class NCSNppConfig:
    """What a network is made of. Frozen and hashable: static under `jax.jit`.

    `shape` is (height, width, channels) of the images; `attention` lists the side lengths, after patching, of the
    levels with attention; `patch` folds patches of that size into channels before the first level; `resample`
    changes level inside a residual block of its own (BigGAN) or by the bare filter, which costs nothing;
    `vocabulary`, `words` and `text_width` describe the text encoder (0 words: an unconditional model).
    """

    shape: tuple[int, int, int] = (32, 32, 3)
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (16,)
    heads: int = 1
    patch: int = 1
    embedding: Literal["positional", "fourier"] = "positional"
    fourier_scale: float = 16.0
    resample: Literal["block", "plain"] = "block"
    fir: bool = False
    rescale: bool = True
    dropout: float = 0.1
    vocabulary: int = 0
    words: int = 0
    text_width: int = 128
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        coarsest = self.patch * 2 ** (len(self.multipliers) - 1)
        if self.shape[0] % coarsest or self.shape[1] % coarsest:
            raise ValueError(f"shape={self.shape}: height and width must be multiples of {coarsest}")
        if self.blocks < 1 or not self.multipliers:
            raise ValueError(f"blocks={self.blocks}, multipliers={self.multipliers}: at least one of each")

    def levels(self) -> list[tuple[str, int, bool]]:
        """For each level, finest first: its name ("32x32"), its channels, and whether it attends."""
        levels = []
        for i, multiplier in enumerate(self.multipliers):
            height, width = (side // (self.patch * 2**i) for side in self.shape[:2])
            levels.append((f"{height}x{width}", self.channels * multiplier, height in self.attention))
        return levels

    def build(self, rngs: nnx.Rngs) -> "NCSNpp":
        """The network with fresh parameters."""
        return NCSNpp(self, rngs)


class _Mixer(nnx.Module):
    """One residual block, then attention over the pixels and the caption where the level has it."""

    def __init__(self, config: NCSNppConfig, inputs: int, outputs: int, attend: bool, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        rescale = config.rescale
        self.block = _block(config, inputs, outputs, rngs)
        self.attention = Attention(outputs, config.heads, dtype, rngs, rescale=rescale) if attend else None
        self.caption = (
            Attention(outputs, config.heads, dtype, rngs, text=config.text_width, rescale=rescale)
            if attend and config.words
            else None
        )

    def __call__(self, x: jax.Array, embedding: jax.Array, text, key: jax.Array | None) -> jax.Array:
        x = self.block(x, embedding, key)
        if self.attention is not None:
            x = self.attention(x)
        if self.caption is not None:
            x = self.caption(x, *text)
        return x


def _block(config: NCSNppConfig, inputs: int, outputs: int, rngs: nnx.Rngs, resample: str = "none") -> ResidualBlock:
    return ResidualBlock(
        inputs,
        outputs,
        4 * config.channels,
        jnp.dtype(config.dtype),
        rngs,
        resample=resample,
        fir=config.fir,
        dropout_rate=config.dropout,
        rescale=config.rescale,
    )


class NCSNpp(nnx.Module):
    """The U-Net: (x, label, tokens) -> an image-shaped output, in float32.

    Holds no random state: dropout takes a key, and is off without one.
    """

    def __init__(self, config: NCSNppConfig, rngs: nnx.Rngs):
        self.config = config
        dtype = jnp.dtype(config.dtype)
        width = config.channels
        image_channels = config.shape[2] * config.patch**2
        if config.embedding == "fourier":
            self.label = FourierEmbedding(2 * width, config.fourier_scale, rngs)
            label_width = 2 * width
        else:
            self.label = PositionalEmbedding(width)
            label_width = width
        self.embed0 = dense(label_width, 4 * width, dtype, rngs)
        self.embed1 = dense(4 * width, 4 * width, dtype, rngs)
        if config.words:
            self.text = TextEncoder(config.vocabulary, config.words, config.text_width, 4, dtype, rngs)
            self.text_embed = dense(config.text_width, 4 * width, dtype, rngs)
        self.conv_in = conv(image_channels, width, 3, dtype, rngs)

        levels = config.levels()
        channels, skips = width, [width]
        self.down, self.up = nnx.Dict(), nnx.Dict()
        for i, (name, outputs, attend) in enumerate(levels):
            level = nnx.Dict()
            for j in range(config.blocks):
                level[f"block{j}"] = _Mixer(config, channels, outputs, attend, rngs)
                channels = outputs
                skips.append(channels)
            if i < len(levels) - 1:
                if config.resample == "block":
                    level["downsample"] = _block(config, channels, channels, rngs, "down")
                skips.append(channels)
            self.down[name] = level
        self.middle = nnx.Dict(
            block0=_Mixer(config, channels, channels, True, rngs),
            block1=_Mixer(config, channels, channels, False, rngs),
        )
        for i, (name, outputs, attend) in reversed(list(enumerate(levels))):
            level = nnx.Dict()
            for j in range(config.blocks + 1):
                level[f"block{j}"] = _Mixer(config, channels + skips.pop(), outputs, attend, rngs)
                channels = outputs
            if i > 0 and config.resample == "block":
                level["upsample"] = _block(config, channels, channels, rngs, "up")
            self.up[name] = level
        self.norm_out = GroupNorm(channels, jnp.float32)
        self.conv_out = conv(channels, image_channels, 3, jnp.float32, rngs, zero=True)

    def __call__(
        self, x: jax.Array, label: jax.Array, tokens: jax.Array | None = None, key: jax.Array | None = None
    ) -> jax.Array:
        """x (b, h, w, c), label (b,), tokens (b, words) or None, dropout key or None -> (b, h, w, c)."""
        config = self.config
        dtype = jnp.dtype(config.dtype)
        embedding = self.embed1(nnx.swish(self.embed0(self.label(label).astype(dtype))))
        text = None
        if config.words:
            assert tokens is not None, "a network with text needs tokens"
            words, pooled, mask = self.text(tokens)
            embedding = embedding + self.text_embed(pooled)
            text = (words, mask)
        embedding = nnx.swish(embedding)

        count = 0

        def next_key() -> jax.Array | None:
            nonlocal count
            count += 1
            return None if key is None else jax.random.fold_in(key, count)

        h = self.conv_in(to_patches(x, config.patch).astype(dtype))
        skips = [h]
        coarsest, finest = config.levels()[-1][0], config.levels()[0][0]
        for name, _, _ in config.levels():
            level = self.down[name]
            for j in range(config.blocks):
                h = level[f"block{j}"](h, embedding, text, next_key())
                skips.append(h)
            if name != coarsest:
                if config.resample == "block":
                    h = level["downsample"](h, embedding, next_key())
                else:
                    h = downsample(h, config.fir)
                skips.append(h)
        for block in ("block0", "block1"):
            h = self.middle[block](h, embedding, text, next_key())
        for name, _, _ in reversed(config.levels()):
            level = self.up[name]
            for j in range(config.blocks + 1):
                h = level[f"block{j}"](jnp.concatenate([h, skips.pop()], -1), embedding, text, next_key())
            if name != finest:
                if config.resample == "block":
                    h = level["upsample"](h, embedding, next_key())
                else:
                    h = upsample(h, config.fir)
        return from_patches(self.conv_out(nnx.swish(self.norm_out(h))), config.patch)
