"""The score networks of Song et al. 2021 (appendix H): DDPM, DDPM++ and NCSN++, with optional text or classes.

They are U-Nets of residual blocks with attention at chosen resolutions. DDPM (Ho et al. 2020) changes the resolution by
strided convolutions; DDPM++ and NCSN++ change it inside BigGAN's residual blocks. NCSN++ filters as it resamples,
embeds the logarithm of the noise level by random Fourier features, and passes the image along the levels: progressive
input feeds the downsampled image to each level, progressive output sums an image from each level.

A text acts in two ways: the vector of the caption is added to the embedding of the label, and the pixels attend to the
words. The vector of a class is added to the embedding of the label.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int, PRNGKeyArray

from sdejax.nn.attention import Attention, skip_sum
from sdejax.nn.embedding import FourierEmbedding, PositionalEmbedding
from sdejax.nn.layers import Conv, Dense, GroupNorm, swish
from sdejax.nn.ncsnpp.blocks import ResidualBlock
from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.nn.resample import ConvDownsample, ConvUpsample, downsample, from_patches, to_patches, upsample
from sdejax.nn.text_encoders.words import TextEncoder

Images = Float[Array, "b _ _ _"]  # (b, h, w, c) of any size
Words = tuple[Float[Array, "b words features"], Bool[Array, "b words"]]  # their vectors, and true for words


class _Builder:
    """Makes the blocks of one network as its configuration says."""

    def __init__(self, config: NCSNppConfig, rngs: nnx.Rngs):
        self.config, self.rngs, self.dtype = config, rngs, jnp.dtype(config.dtype)

    def residual(
        self,
        inputs: int,
        outputs: int,
        resample: Literal["none", "down", "up"] = "none",
        groups: int | None = None,
    ) -> ResidualBlock:
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

    def add_attention(self, level: nnx.Dict, number: str, channels: int, groups: int | None = None) -> None:
        """Give a level attention to its pixels after block `number`, and to the words if there is a text."""
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

    def output(self, channels: int, outputs: int, dtype: DTypeLike) -> tuple[GroupNorm, Conv]:
        """The norm and the convolution that end a network or a level."""
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
    """The U-Net: (x, label, condition) -> an output of the shape of x, in float32.

    Parameters are float32. The statistics of norms, the softmaxes and the last convolution are computed in float32,
    whatever `config.dtype` is. The network holds no random state: dropout takes a key and is off without one.
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
        make.add_attention(self.middle, "", channels)
        self.middle["block1"] = make.residual(channels, channels)
        self._make_up(make, image, skips)

    def _make_down(self, make: _Builder, image: int) -> list[int]:
        """Make the way down. Returns the channels of each skip connection to the way up."""
        config = self.config
        levels = config.levels()
        channels, pyramid, skips = config.channels, image, [config.channels]
        for i, (name, outputs, attend) in enumerate(levels):
            level = self.down[name] = nnx.Dict()
            for j in range(config.blocks):
                level[f"block{j}"] = make.residual(channels, outputs)
                channels = outputs
                if attend:
                    make.add_attention(level, str(j), channels, config.attention_groups)
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
        """Make the way up; `skips` are the channels of each skip connection."""
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
                    make.add_attention(level, str(j), channels, config.attention_groups)
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
        self,
        x: Float[Array, "b h w c"],
        label: Float[Array, " b"],
        condition: Int[Array, "b words"] | Int[Array, " b"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float32[Array, "b h w c"]:
        """The output for images x at the times or noise levels `label`.

        `condition` are tokens (b, words) for a network with text, class numbers (b,) for one with classes. `key` is for
        dropout.

        **Raises:** `ValueError` if a network with text or classes gets no condition.
        """
        config = self.config
        embedding, words = self._embed(label, condition)
        run = _Pass(config, embedding, words, key)
        h, skips = self._way_down(run, to_patches(x, config.patch))
        h = run.block(self.middle["block0"], h)
        h = run.block(self.middle["block1"], run.attend(self.middle, "", h))
        output = from_patches(self._way_up(run, h, skips), config.patch)
        return output * jnp.exp(-label)[:, None, None, None] if config.scale_by_sigma else output

    def _embed(
        self, label: Float[Array, " b"], condition: Int[Array, "b words"] | Int[Array, " b"] | None
    ) -> tuple[Float[Array, "b width"] | None, Words | None]:
        """The vector that conditions the blocks, and the words that the pixels attend to."""
        config = self.config
        if not config.conditional:
            return None, None
        embedding, words = self.embed1(swish(self.embed0(self.label(label)))), None
        if config.classes:
            embedding = embedding + self.classes(_given(condition, "class numbers (b,)"))
        if config.words:
            vectors, caption, mask = self.text(_given(condition, "tokens (b, words)"))
            embedding, words = embedding + self.text_embed(caption), (vectors, mask)
        return swish(embedding), words

    def _way_down(self, run: "_Pass", pyramid: Images) -> tuple[Images, list[Images]]:
        """From the image to the features of the coarsest level, with the skip connections to the way up."""
        h = self.conv_in(pyramid)
        skips = [h]
        *finer, coarsest = self.config.levels()
        for name, _, _ in (*finer, coarsest):
            level = self.down[name]
            for j in range(self.config.blocks):
                h = run.attend(level, str(j), run.block(level[f"block{j}"], h))
                skips.append(h)
            if name != coarsest[0]:
                h = run.resample(level.get("downsample"), h, downsample)
                h, pyramid = self._progressive_input(level, h, pyramid)
                skips.append(h)
        return h, skips

    def _way_up(self, run: "_Pass", h: Images, skips: list[Images]) -> Images:
        """From the features of the coarsest level to the output."""
        config, output = self.config, None
        finest, *coarser = config.levels()
        for name, _, _ in reversed((finest, *coarser)):
            level = self.up[name]
            for j in range(config.blocks + 1):
                h = run.block(level[f"block{j}"], jnp.concatenate([h, skips.pop()], -1))
                h = run.attend(level, str(j), h)
            h, output = self._progressive_output(level, h, output)
            if name != finest[0]:
                h = run.resample(level.get("upsample"), h, upsample)
        if output is None or config.progressive != "output_skip":
            output = _end(self.norm_out, self.conv_out, h)
        return output

    def _progressive_input(self, level: nnx.Dict, h: Images, pyramid: Images) -> tuple[Images, Images]:
        """Feed the image, downsampled, to the next level. Returns the features and the downsampled image."""
        config = self.config
        if config.progressive_input == "input_skip":
            pyramid = downsample(pyramid, config.fir)
            fed = level["input"](pyramid)
            return (jnp.concatenate([fed, h], -1) if config.progressive_combine == "cat" else fed + h), pyramid
        if config.progressive_input == "residual":
            h = skip_sum(level["input"](pyramid), h, config.rescale)
            return h, h
        return h, pyramid

    def _progressive_output(self, level: nnx.Dict, h: Images, output: Images | None) -> tuple[Images, Images | None]:
        """Add a level's part to the output of the coarser levels. Returns the features and the output."""
        config = self.config
        if config.progressive == "output_skip":
            own = _end(level["norm_out"], level["conv_out"], h)
            return h, own if output is None else upsample(output, config.fir) + own
        if config.progressive == "residual":
            if output is None:
                return h, _end(level["norm_out"], level["conv_out"], h)
            h = skip_sum(level["output"](output), h, config.rescale)
            return h, h
        return h, None


class _Pass:
    """One pass through the network: how its modules are called, and what all of them are given."""

    def __init__(
        self,
        config: NCSNppConfig,
        embedding: Float[Array, "b width"] | None,
        words: Words | None,
        key: PRNGKeyArray | None,
    ):
        self.config, self.embedding, self.words = config, embedding, words
        self.key, self.blocks = key, 0

    def block(self, block: ResidualBlock, h: Images) -> Images:
        """A residual block, with a dropout key of its own."""
        self.blocks += 1
        key = None if self.key is None else jax.random.fold_in(self.key, self.blocks)
        return self._call(block, h, self.embedding, key)

    def attend(self, level: nnx.Dict, number: str, h: Images) -> Images:
        """The attention after block `number` to the pixels and to the words, if the level has them."""
        if f"attention{number}" in level:
            h = self._call(level[f"attention{number}"], h)
        if f"caption{number}" in level and self.words is not None:
            h = self._call(level[f"caption{number}"], h, *self.words)
        return h

    def resample(self, module: nnx.Module | None, h: Images, plain: Callable[[Images, bool], Images]) -> Images:
        """Change the resolution by a block, by a convolution, or without a module by `plain`."""
        if module is None:
            return plain(h, self.config.fir)
        return self.block(module, h) if isinstance(module, ResidualBlock) else module(h)

    def _call(self, module: nnx.Module, *args: Any) -> Images:
        """module(*args). With `remat`, its insides are not kept for the gradient but computed again."""
        if not self.config.remat:
            return module(*args)
        graph, params = nnx.split(module)
        return jax.checkpoint(lambda params, *args: nnx.merge(graph, params)(*args))(params, *args)


def _given(condition: Int[Array, "..."] | None, kind: str) -> Int[Array, "..."]:
    if condition is None:
        raise ValueError(f"condition=None: must be {kind} for this network")
    return condition


def _end(norm: GroupNorm, conv: Conv, h: Images) -> Images:
    """The norm, swish and the convolution that end a network or a level."""
    return conv(norm.swished(h))
