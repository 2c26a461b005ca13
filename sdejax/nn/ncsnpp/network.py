"""The score networks of Song et al. 2021 (appendix H): DDPM, DDPM++ and NCSN++, with optional text conditioning.

A U-Net of residual blocks with attention at chosen resolutions. DDPM (Ho et al. 2020) changes resolution by strided
convolutions; DDPM++ and NCSN++ inside BigGAN's residual blocks. NCSN++ filters as it resamples, embeds the logarithm
of the noise level by random Fourier features, and passes the image along the levels: progressive input feeds it,
downsampled, to each level; progressive output sums what each level adds to it. Captions, where a model has them, enter
twice: their mean vector is added to the time embedding, and the pixels attend to their words.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sdejax.nn.attention import Attention, skip_sum
from sdejax.nn.embedding import FourierEmbedding, PositionalEmbedding
from sdejax.nn.layers import Conv, Dense, GroupNorm, swish
from sdejax.nn.ncsnpp.blocks import ResidualBlock
from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.nn.resample import ConvDownsample, ConvUpsample, downsample, from_patches, to_patches, upsample
from sdejax.nn.text_encoders.words import TextEncoder


class _Builder:
    """Makes the blocks of one network, all in its style."""

    def __init__(self, config: NCSNppConfig, rngs: nnx.Rngs):
        self.config, self.rngs, self.dtype = config, rngs, jnp.dtype(config.dtype)

    def residual(self, inputs: int, outputs: int, resample: Any = "none", groups: int | None = None) -> ResidualBlock:
        config = self.config
        return ResidualBlock(
            inputs,
            outputs,
            config.embedding_width,
            self.dtype,
            self.rngs,
            resample=resample,
            fir=config.fir,
            dropout_rate=config.dropout,
            rescale=config.rescale,
            groups=(groups or config.groups, config.groups),
            epsilon=config.epsilon,
        )

    def attend(self, level: nnx.Dict, number: str, channels: int, groups: int | None = None) -> None:
        """Give a level attention over its pixels, and over the caption where there is one, after block `number`."""
        config = self.config
        heads = channels // config.head_width if config.head_width else config.heads
        for name, text in (("attention", 0), ("caption", config.text_width)):
            if name == "attention" or config.words:
                level[name + number] = Attention(
                    channels,
                    heads,
                    self.dtype,
                    self.rngs,
                    text=text,
                    rescale=config.rescale,
                    groups=groups or config.groups,
                    epsilon=config.epsilon,
                )

    def output(self, channels: int, outputs: int, dtype: Any) -> tuple[GroupNorm, Conv]:
        """A norm, and the convolution to what is put out."""
        norm = GroupNorm(channels, dtype, groups=self.config.groups, epsilon=self.config.epsilon)
        return norm, Conv(channels, outputs, 3, dtype, self.rngs, zero=True)

    def downsample(self, channels: int) -> nnx.Module | None:
        if self.config.resblock == "biggan":
            return self.residual(channels, channels, "down")
        if self.config.resample_with_conv:
            padding = self.config.downsample_padding
            return ConvDownsample(channels, channels, self.config.fir, self.dtype, self.rngs, padding)
        return None

    def upsample(self, channels: int) -> nnx.Module | None:
        if self.config.resblock == "biggan":
            return self.residual(channels, channels, "up")
        if self.config.resample_with_conv:
            return ConvUpsample(channels, channels, self.config.fir, self.dtype, self.rngs)
        return None


class NCSNpp(nnx.Module):
    """The U-Net: (x, label, tokens) -> an image-shaped output, in float32.

    Parameters are float32; norms' statistics, softmaxes and the last convolution are computed in float32 whatever the
    config's dtype. Holds no random state: dropout takes a key, and is off without one.
    """

    def __init__(self, config: NCSNppConfig, rngs: nnx.Rngs):
        self.config = config
        make, dtype = _Builder(config, rngs), jnp.dtype(config.dtype)
        image = config.shape[2] * config.patch**2
        if config.conditional:
            if config.embedding == "fourier":
                self.label = FourierEmbedding(2 * config.channels, config.fourier_scale, rngs)
            else:
                self.label = PositionalEmbedding(config.channels, config.frequency_shift)
            width = config.channels * (2 if config.embedding == "fourier" else 1)
            # A vector per image: in float32 it costs nothing, and in bfloat16 every block would take its error.
            self.embed0 = Dense(width, config.embedding_width, jnp.float32, rngs)
            self.embed1 = Dense(config.embedding_width, config.embedding_width, jnp.float32, rngs)
        if config.classes:
            self.classes = nnx.Embed(config.classes, config.embedding_width, rngs=rngs)
        if config.words:
            self.text = TextEncoder(config.vocabulary, config.words, config.text_width, 4, dtype, rngs)
            self.text_embed = Dense(config.text_width, config.embedding_width, dtype, rngs)
        self.conv_in = Conv(image, config.channels, 3, dtype, rngs)
        self.down, self.up, self.middle = nnx.Dict(), nnx.Dict(), nnx.Dict()
        skips = self._make_down(make, image)
        channels = skips[-1]
        self.middle["block0"] = make.residual(channels, channels)
        make.attend(self.middle, "", channels)
        self.middle["block1"] = make.residual(channels, channels)
        self._make_up(make, image, skips)

    def _make_down(self, make: _Builder, image: int) -> list[int]:
        """The way down; returns the channels of what it hands over to the way up."""
        config = self.config
        levels = config.levels()
        channels, pyramid, skips = config.channels, image, [config.channels]
        for i, (name, outputs, attend) in enumerate(levels):
            level = self.down[name] = nnx.Dict()
            for j in range(config.blocks):
                level[f"block{j}"] = make.residual(channels, outputs)
                channels = outputs
                if attend:
                    make.attend(level, str(j), channels, config.attention_groups)
                skips.append(channels)
            if i == len(levels) - 1:
                break
            if (module := make.downsample(channels)) is not None:
                level["downsample"] = module
            if config.progressive_input == "input_skip":
                level["input"] = Dense(pyramid, channels, make.dtype, make.rngs)
                channels *= 2 if config.progressive_combine == "cat" else 1
            elif config.progressive_input == "residual":
                level["input"] = ConvDownsample(pyramid, channels, config.fir, make.dtype, make.rngs)
                pyramid = channels
            skips.append(channels)
        return skips

    def _make_up(self, make: _Builder, image: int, skips: list[int]) -> None:
        config = self.config
        levels = config.levels()
        channels, pyramid = skips[-1], 0
        skips = list(skips)
        for i, (name, outputs, attend) in reversed(list(enumerate(levels))):
            level = self.up[name] = nnx.Dict()
            for j in range(config.blocks + 1):
                level[f"block{j}"] = make.residual(
                    channels + skips.pop(), outputs, groups=config.attention_groups if attend else None
                )
                channels = outputs
                if attend and (config.attention_up == "every" or j == config.blocks):
                    make.attend(level, str(j), channels, config.attention_groups)
            if config.progressive == "output_skip":
                level["norm_out"], level["conv_out"] = make.output(channels, image, jnp.float32)
            elif config.progressive == "residual":
                if pyramid:
                    level["output"] = ConvUpsample(pyramid, channels, config.fir, make.dtype, make.rngs)
                else:
                    level["norm_out"], level["conv_out"] = make.output(channels, channels, make.dtype)
                pyramid = channels
            if i > 0 and (module := make.upsample(channels)) is not None:
                level["upsample"] = module
        if config.progressive != "output_skip":
            self.norm_out, self.conv_out = make.output(channels, image, jnp.float32)

    def __call__(
        self, x: jax.Array, label: jax.Array, condition: jax.Array | None = None, key: jax.Array | None = None
    ) -> jax.Array:
        """x (b, h, w, c), label (b,) -> (b, h, w, c).

        `condition` are tokens (b, words) or class numbers (b,), if the network has either; `key` is for dropout.
        """
        config = self.config
        embedding, text = self._embed(label, condition)
        keys = _keys(key)

        def call(block: ResidualBlock, h: jax.Array) -> jax.Array:
            return _recomputed(block, config.remat)(h, embedding, next(keys))

        def attend(level: nnx.Dict, number: str, h: jax.Array) -> jax.Array:
            if f"attention{number}" in level:
                h = _recomputed(level[f"attention{number}"], config.remat)(h)
            if f"caption{number}" in level:
                assert text is not None
                h = _recomputed(level[f"caption{number}"], config.remat)(h, *text)
            return h

        def resample(module: Any, h: jax.Array, plain: Callable) -> jax.Array:
            if isinstance(module, ResidualBlock):
                return call(module, h)
            return plain(h, config.fir) if module is None else module(h)

        names = [name for name, _, _ in config.levels()]
        pyramid = to_patches(x, config.patch)
        h = self.conv_in(pyramid)
        skips = [h]
        for name in names:
            level = self.down[name]
            for j in range(config.blocks):
                h = attend(level, str(j), call(level[f"block{j}"], h))
                skips.append(h)
            if name != names[-1]:
                h = resample(level.get("downsample"), h, downsample)
                h, pyramid = self._feed(level, h, pyramid)
                skips.append(h)
        h = call(self.middle["block0"], h)
        h = call(self.middle["block1"], attend(self.middle, "", h))
        output = None
        for name in reversed(names):
            level = self.up[name]
            for j in range(config.blocks + 1):
                h = attend(level, str(j), call(level[f"block{j}"], jnp.concatenate([h, skips.pop()], -1)))
            h, output = self._emit(level, h, output)
            if name != names[0]:
                h = resample(level.get("upsample"), h, upsample)
        if config.progressive != "output_skip":
            output = _out(self.norm_out, self.conv_out, h)
        assert output is not None
        output = from_patches(output, config.patch)
        return output * jnp.exp(-label)[:, None, None, None] if config.scale_by_sigma else output

    def _embed(self, label: jax.Array, condition: jax.Array | None) -> tuple[jax.Array | None, Any]:
        """The vector that conditions the blocks, and the caption's words with their mask."""
        config = self.config
        if not config.conditional:
            return None, None
        label = self.label(label)
        embedding, text = self.embed1(swish(self.embed0(label))), None
        if config.classes:
            assert condition is not None, "a network with classes needs their numbers"
            embedding = embedding + self.classes(condition)
        if config.words:
            assert condition is not None, "a network with text needs tokens"
            words, pooled, mask = self.text(condition)
            embedding, text = embedding + self.text_embed(pooled), (words, mask)
        return swish(embedding), text

    def _feed(self, level: nnx.Dict, h: jax.Array, pyramid: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Progressive input: the image, downsampled, enters the next level."""
        config = self.config
        if config.progressive_input == "input_skip":
            pyramid = downsample(pyramid, config.fir)
            fed = level["input"](pyramid)
            return (jnp.concatenate([fed, h], -1) if config.progressive_combine == "cat" else fed + h), pyramid
        if config.progressive_input == "residual":
            h = skip_sum(level["input"](pyramid), h, config.rescale)
            return h, h
        return h, pyramid

    def _emit(self, level: nnx.Dict, h: jax.Array, output: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        """Progressive output: what a level adds to the image so far, or to what it is made from."""
        config = self.config
        if config.progressive == "output_skip":
            own = _out(level["norm_out"], level["conv_out"], h)
            return h, own if output is None else upsample(output, config.fir) + own
        if config.progressive == "residual":
            if output is None:
                return h, _out(level["norm_out"], level["conv_out"], h)
            h = skip_sum(level["output"](output), h, config.rescale)
            return h, h
        return h, None


def _out(norm: GroupNorm, conv: Conv, h: jax.Array) -> jax.Array:
    return conv(norm.swished(h))


def _keys(key: jax.Array | None) -> Iterator[jax.Array | None]:
    """A dropout key for each block, or None for each."""
    count = 0
    while True:
        count += 1
        yield None if key is None else jax.random.fold_in(key, count)


def _recomputed(module: Callable, remat: bool) -> Callable:
    """The module, its inside forgotten after the forward pass and computed again for the gradient."""
    if not remat:
        return module
    graph, params = nnx.split(module)

    def run(params: Any, *args: Any) -> jax.Array:
        return nnx.merge(graph, params)(*args)

    return lambda *args: jax.checkpoint(run)(params, *args)
