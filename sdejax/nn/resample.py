"""Half and twice the height and width: by plain means and repeats, or by the FIR filter of Zhang (2019).

The filter is [1, 3, 3, 1] along each axis, with unit gain: on an image without end, a constant stays what it is. It
is symmetric, so a strided convolution after it, and a transposed one before it, are both "filter, then convolve".
Outside the image is zero.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from sdejax.nn.layers import Conv


def downsample(x: jax.Array, fir: bool) -> jax.Array:
    """(b, h, w, c) -> (b, h/2, w/2, c): 2 x 2 means, or with `fir` the filter at every second pixel.

    y[i] = (x[2i - 1] + 3 x[2i] + 3 x[2i + 1] + x[2i + 2]) / 8 along each axis.
    """
    if fir:
        return _filtered(x, 1, stride=2)
    for axis in (1, 2):
        even, odd = (jax.lax.slice_in_dim(x, k, x.shape[axis], 2, axis) for k in range(2))
        x = (even + odd) * 0.5
    return x


def upsample(x: jax.Array, fir: bool) -> jax.Array:
    """(b, h, w, c) -> (b, 2h, 2w, c): repeated pixels, or with `fir` the filter over pixels set two apart.

    In its two phases: y[2i] = (x[i - 1] + 3 x[i]) / 4 and y[2i + 1] = (3 x[i] + x[i + 1]) / 4 along each axis.
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


def _filtered(x: jax.Array, padding: int, stride: int) -> jax.Array:
    """The filter along both axes, over `padding` pixels of zeros, at every `stride`-th place."""
    for axis in (1, 2):
        x = _pad(x, axis, padding)
        taps = (jax.lax.slice_in_dim(x, k, x.shape[axis] - 3 + k, stride, axis) for k in range(4))
        a, b, c, d = taps
        x = (a + d) * 0.125 + (b + c) * 0.375
    return x


def _pad(x: jax.Array, axis: int, count: int) -> jax.Array:
    return jnp.pad(x, [(count, count) if a == axis else (0, 0) for a in range(x.ndim)])


class ConvDownsample(nnx.Module):
    """Half the size by a strided 3 x 3 convolution; with `fir` the image is filtered before it.

    `padding` is the number of zero pixels (before, after) each axis of the plain one: (0, 1) in DDPM.
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

    def __call__(self, x: jax.Array) -> jax.Array:
        # Two pixels of padding: one for the filter's and one for the convolution's own reach.
        return self.conv(_filtered(x, 2, stride=1) if self.fir else x)


class ConvUpsample(nnx.Module):
    """Twice the size, then a 3 x 3 convolution; with `fir` the pixels are filtered rather than repeated."""

    def __init__(self, inputs: int, outputs: int, fir: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        self.fir = fir
        self.conv = Conv(inputs, outputs, 3, dtype, rngs, padding=(0, 0) if fir else (1, 1))

    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.fir:
            return self.conv(upsample(x, False))
        # The filter reaches one pixel out of the image, and the convolution reads it there.
        wide = upsample(_pad(_pad(x, 1, 1), 2, 1), True)
        return self.conv(wide[:, 1:-1, 1:-1])


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
