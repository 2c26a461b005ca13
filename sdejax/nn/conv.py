"""Convolution of NHWC images with HWIO kernels."""

import jax
from jaxtyping import Array, Float

from sdejax.nn.kernels.conv3x3 import convolve, convolve_by_shifts, convolve_with_strip_gradient
from sdejax.nn.kernels.row_padding import product_of_rows

_WIDE = 128  # with so many input and output channels, the order of the sums is the same for few pixels as for many


def conv2d(
    x: Float[Array, "b h w i"], kernel: Float[Array, "k k i o"], stride: int = 1, padding: tuple[int, int] = (1, 1)
) -> Float[Array, "b h2 w2 o"]:
    """The convolution of x with a kernel; `padding` is the number of zero pixels (before, after) each axis."""
    size, _, inputs, outputs = kernel.shape
    if (size, stride, padding) != (3, 1, (1, 1)):
        return convolve(x, kernel, stride, padding, padding)
    if 9 * outputs <= inputs:
        return jax.lax.platform_dependent(x, kernel, cpu=convolve_by_shifts, default=convolve)
    if min(inputs, outputs) >= _WIDE:
        return convolve_with_strip_gradient(x, kernel)
    return product_of_rows(convolve_with_strip_gradient, x, kernel, x.shape[1] * x.shape[2])
