"""Convolution of NHWC images with HWIO kernels."""

import jax


def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: tuple[int, int] = (1, 1)) -> jax.Array:
    """x (b, h, w, i), kernel (k, k, i, o), zeros (before, after) each axis -> (b, h', w', o)."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (padding, padding), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
