"""Halve and double height and width: by plain means and repeats, or by the FIR filter of Zhang (2019).

The filter is [1, 3, 3, 1] along each axis, with unit gain: far from the border it keeps a constant as it is. It is
symmetric, so "filter, then convolve" describes both a strided convolution after it and a transposed one before it.
The image is zero outside of its border.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sdejax.nn.layers import Conv


def downsample(x: Float[Array, "b h w c"], fir: bool) -> Float[Array, "b h//2 w//2 c"]:
    """The means of 2 x 2 pixels; with `fir` the filter at every second pixel.

    With `fir`, y[i] = (x[2i - 1] + 3 x[2i] + 3 x[2i + 1] + x[2i + 2]) / 8 along each axis.
    """
    if fir:
        return _filtered(x, 1, stride=2)
    for axis in (1, 2):
        even, odd = (jax.lax.slice_in_dim(x, k, x.shape[axis], 2, axis) for k in range(2))
        x = (even + odd) * 0.5
    return x


def upsample(x: Float[Array, "b h w c"], fir: bool) -> Float[Array, "b 2*h 2*w c"]:
    """Each pixel repeated 2 x 2 times; with `fir` the filter over pixels that are set two apart.

    With `fir`, y[2i] = (x[i - 1] + 3 x[i]) / 4 and y[2i + 1] = (3 x[i] + x[i + 1]) / 4 along each axis.
    """
    for axis in (1, 2):
        if fir:
            n = x.shape[axis]
            padded = _pad(x, axis, 1)
            before = jax.lax.slice_in_dim(padded, 0, n, axis=axis)
            after = jax.lax.slice_in_dim(padded, 2, n + 2, axis=axis)
            pair = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
        else:
            pair = jnp.stack([x, x], axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
    return x


def _filtered(x: Float[Array, "b h w c"], padding: int, stride: int) -> Float[Array, "b h2 w2 c"]:
    """The filter along both axes at every `stride`-th pixel, after padding by `padding` pixels of zeros."""
    for axis in (1, 2):
        x = _pad(x, axis, padding)
        taps = (jax.lax.slice_in_dim(x, k, x.shape[axis] - 3 + k, stride, axis) for k in range(4))
        a, b, c, d = taps
        x = (a + d) * 0.125 + (b + c) * 0.375
    return x


def _pad(x: Float[Array, "b h w c"], axis: int, count: int) -> Float[Array, "b h2 w2 c"]:
    """`count` zeros on either side of an axis."""
    return jnp.pad(x, [(count, count) if a == axis else (0, 0) for a in range(x.ndim)])


class ConvDownsample(nnx.Module):
    """A 3 x 3 convolution of stride 2; with `fir` it convolves the filtered image.

    `padding` is the number of zero pixels (before, after) each axis without `fir`: (0, 1) in DDPM.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        fir: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        padding: tuple[int, int] = (0, 1),
    ):
        self.fir = fir
        self.conv = Conv(inputs, outputs, 3, dtype, rngs, stride=2, padding=(0, 0) if fir else padding)

    def __call__(self, x: Float[Array, "b h w inputs"]) -> Float[Array, "b h//2 w//2 outputs"]:
        """Half the height and width."""
        # Two pixels of padding: the filter reads one of them and the convolution the other.
        return self.conv(_filtered(x, 2, stride=1) if self.fir else x)


class ConvUpsample(nnx.Module):
    """`upsample`, then a 3 x 3 convolution."""

    def __init__(self, inputs: int, outputs: int, fir: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        self.fir = fir
        self.conv = Conv(inputs, outputs, 3, dtype, rngs, padding=(0, 0) if fir else (1, 1))

    def __call__(self, x: Float[Array, "b h w inputs"]) -> Float[Array, "b 2*h 2*w outputs"]:
        """Twice the height and width."""
        if not self.fir:
            return self.conv(upsample(x, False))
        # The filtered image is one pixel larger on each side than the image, and the convolution reads that pixel.
        wide = upsample(_pad(_pad(x, 1, 1), 2, 1), True)
        return self.conv(wide[:, 1:-1, 1:-1])


def to_patches(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b h//{size} w//{size} {size}*{size}*c"]:
    """Each patch of size x size pixels becomes the channels of one pixel."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // size, w // size, size * size * c)


def from_patches(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b {size}*h {size}*w c//({size}*{size})"]:
    """The inverse of `to_patches`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, size, size, c // size**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * size, w * size, c // size**2)
