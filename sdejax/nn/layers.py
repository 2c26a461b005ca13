"""The layers of the score network: NHWC, parameters in float32, computation in a chosen dtype.

Normalisation statistics and softmaxes are always accumulated in float32.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

# Song et al. 2021 initialise as DDPM does: uniform, scaled by the mean of fan-in and fan-out.
default_init = nnx.initializers.variance_scaling(1.0, "fan_avg", "uniform")
zero_init = nnx.initializers.zeros_init()


def dense(inputs: int, outputs: int, dtype: DTypeLike, rngs: nnx.Rngs, *, zero: bool = False) -> nnx.Linear:
    """A linear layer; `zero` starts it at nothing, so that a residual branch starts as the identity."""
    init = zero_init if zero else default_init
    return nnx.Linear(inputs, outputs, kernel_init=init, dtype=dtype, rngs=rngs)


def conv(inputs: int, outputs: int, size: int, dtype: DTypeLike, rngs: nnx.Rngs, *, zero: bool = False) -> nnx.Conv:
    """A size x size convolution that keeps height and width; `zero` starts it at nothing."""
    init = zero_init if zero else default_init
    return nnx.Conv(inputs, outputs, (size, size), padding="SAME", kernel_init=init, dtype=dtype, rngs=rngs)


class GroupNorm(nnx.Module):
    """Group normalisation (Wu and He 2018) in one pass over the image.

    Per-channel sums and sums of squares are folded into one scale and one shift per channel, so that the
    image is read once for the statistics and once to be normalised; XLA on CPU takes five times as long over
    the reshape-mean-variance form.
    """

    def __init__(self, channels: int, dtype: DTypeLike, *, groups: int | None = None, epsilon: float = 1e-6):
        # Song et al. take min(channels // 4, 32) groups; other widths take the nearest smaller divisor.
        self.groups = groups or max(n for n in range(1, min(channels // 4, 32) + 1) if channels % n == 0)
        self.epsilon = epsilon
        self.dtype = dtype
        self.scale = nnx.Param(jnp.ones((channels,)))
        self.bias = nnx.Param(jnp.zeros((channels,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (b, h, w, c)."""
        b, h, w, c = x.shape
        wide = x.astype(jnp.float32)
        count = h * w * (c // self.groups)
        total = wide.sum((1, 2)).reshape(b, self.groups, -1).sum(-1)
        squares = jnp.square(wide).sum((1, 2)).reshape(b, self.groups, -1).sum(-1)
        mean = total / count
        variance = jnp.maximum(squares / count - jnp.square(mean), 0.0)
        rate = jnp.repeat(jax.lax.rsqrt(variance + self.epsilon), c // self.groups, axis=1)
        scale = rate * self.scale[...]
        shift = self.bias[...] - jnp.repeat(mean, c // self.groups, axis=1) * scale
        return (wide * scale[:, None, None] + shift[:, None, None]).astype(self.dtype)


def downsample(x: jax.Array, fir: bool) -> jax.Array:
    """Half the height and width: 2 x 2 means, or with `fir` the [1, 3, 3, 1] / 8 filter along each axis.

    y[i] = (x[2i - 1] + 3 x[2i] + 3 x[2i + 1] + x[2i + 2]) / 8, zero outside the image.
    """
    for axis in (1, 2):
        if fir:
            x = jnp.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(4)])
            n = x.shape[axis]
            tap = [jax.lax.slice_in_dim(x, k, n - 2 + k, 2, axis) for k in range(3)]
            last = jax.lax.slice_in_dim(x, 3, n, 2, axis)
            x = (tap[0] + last) * 0.125 + (tap[1] + tap[2]) * 0.375
        else:
            even, odd = (jax.lax.slice_in_dim(x, k, x.shape[axis], 2, axis) for k in range(2))
            x = (even + odd) * 0.5
    return x


def upsample(x: jax.Array, fir: bool) -> jax.Array:
    """Twice the height and width: repeated pixels, or with `fir` the [1, 3, 3, 1] / 4 filter along each axis.

    In its two phases: y[2i] = (x[i - 1] + 3 x[i]) / 4 and y[2i + 1] = (3 x[i] + x[i + 1]) / 4, zero outside.
    """
    for axis in (1, 2):
        if fir:
            n = x.shape[axis]
            padded = jnp.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(4)])
            before = jax.lax.slice_in_dim(padded, 0, n, axis=axis)
            after = jax.lax.slice_in_dim(padded, 2, n + 2, axis=axis)
            pair = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
        else:
            pair = jnp.stack([x, x], axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
    return x


def to_patches(x: jax.Array, size: int) -> jax.Array:
    """(b, h, w, c) -> (b, h / size, w / size, size * size * c): each patch becomes channels."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // size, w // size, size * size * c)


def from_patches(x: jax.Array, size: int) -> jax.Array:
    """The inverse of `to_patches`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, size, size, c // size**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * size, w * size, c // size**2)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zero a share `rate` of x and scale up the rest; nothing without a key (evaluation)."""
    if key is None or rate == 0.0:
        return x
    kept = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros((), x.dtype))


class Attention(nnx.Module):
    """Multi-head attention over the pixels, with the pixels or a text as what is attended to.

    The output projection starts at zero, so the block starts as the identity (up to the skip rescaling).
    """

    def __init__(
        self, channels: int, heads: int, dtype: DTypeLike, rngs: nnx.Rngs, *, text: int = 0, rescale: bool = False
    ):
        if channels % heads:
            raise ValueError(f"heads={heads}: must divide the {channels} channels of the attention")
        self.heads = heads
        self.rescale = rescale
        self.norm = GroupNorm(channels, dtype)
        self.query = dense(channels, channels, dtype, rngs)
        self.key = dense(text or channels, channels, dtype, rngs)
        self.value = dense(text or channels, channels, dtype, rngs)
        self.out = dense(channels, channels, dtype, rngs, zero=True)

    def __call__(self, x: jax.Array, text: jax.Array | None = None, mask: jax.Array | None = None) -> jax.Array:
        """x: (b, h, w, c); text: (b, words, width) with mask (b, words), true where there is a word."""
        b, h, w, c = x.shape
        pixels = self.norm(x).reshape(b, h * w, c)
        source = pixels if text is None else text
        query, key, value = (
            layer(y).reshape(b, -1, self.heads, c // self.heads)
            for layer, y in ((self.query, pixels), (self.key, source), (self.value, source))
        )
        mask = None if mask is None else mask[:, None, None, :]
        mixed = jax.nn.dot_product_attention(query, key, value, mask=mask)
        return skip_sum(x, self.out(mixed.reshape(b, h * w, c)).reshape(x.shape), self.rescale)


def skip_sum(skip: jax.Array, branch: jax.Array, rescale: bool) -> jax.Array:
    """skip + branch; over sqrt(2) with `rescale`, which keeps the variance (Song et al. 2021, appendix H)."""
    total = skip + branch
    return total * (0.5**0.5) if rescale else total


class PositionalEmbedding(nnx.Module):
    """Sinusoids of a scalar at geometric frequencies from 1 to 1e-4, as in DDPM; label (b,) -> (b, width)."""

    def __init__(self, width: int):
        self.width = width

    def __call__(self, label: jax.Array) -> jax.Array:
        half = self.width // 2
        frequencies = jnp.exp(-jnp.log(1e4) * jnp.arange(half, dtype=jnp.float32) / (half - 1))
        phase = label[:, None] * frequencies
        return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=1)


class FourierEmbedding(nnx.Module):
    """Random Fourier features of a scalar (Tancik et al. 2020), as in NCSN++; label (b,) -> (b, width).

    The frequencies are drawn once and are not trained.
    """

    def __init__(self, width: int, scale: float, rngs: nnx.Rngs):
        self.frequencies = nnx.Param(jax.random.normal(rngs.params(), (width // 2,)) * scale)

    def __call__(self, label: jax.Array) -> jax.Array:
        frequencies = jax.lax.stop_gradient(self.frequencies[...])
        phase = label[:, None] * frequencies * (2.0 * jnp.pi)
        return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=1)


class ResidualBlock(nnx.Module):
    """BigGAN's residual block, conditioned on an embedding, with resampling inside (Brock et al. 2019).

    norm, swish, (resample), conv, + embedding, norm, swish, dropout, conv, + skip.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        *,
        resample: str = "none",
        fir: bool = False,
        dropout_rate: float = 0.0,
        rescale: bool = False,
    ):
        self.resample, self.fir = resample, fir
        self.dropout_rate, self.rescale = dropout_rate, rescale
        self.norm0 = GroupNorm(inputs, dtype)
        self.conv0 = conv(inputs, outputs, 3, dtype, rngs)
        self.embed = dense(embedding, outputs, dtype, rngs)
        self.norm1 = GroupNorm(outputs, dtype)
        self.conv1 = conv(outputs, outputs, 3, dtype, rngs, zero=True)
        self.skip = dense(inputs, outputs, dtype, rngs) if inputs != outputs or resample != "none" else None

    def __call__(self, x: jax.Array, embedding: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """x: (b, h, w, inputs), embedding: (b, embedding) -> (b, h', w', outputs)."""
        h = nnx.swish(self.norm0(x))
        if self.resample == "down":
            h, x = downsample(h, self.fir), downsample(x, self.fir)
        elif self.resample == "up":
            h, x = upsample(h, self.fir), upsample(x, self.fir)
        h = self.conv0(h) + self.embed(embedding)[:, None, None, :]
        h = self.conv1(dropout(nnx.swish(self.norm1(h)), self.dropout_rate, key))
        return skip_sum(x if self.skip is None else self.skip(x), h, self.rescale)
