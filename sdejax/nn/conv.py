"""Convolution of NHWC images with HWIO kernels.

The gradient by the kernel is itself a convolution, in which the batch takes the part of the features that are summed
over. XLA's CPU backend sums few features slowly (four times as long for one image as for eight), so the derivative by
the kernel is written for images that are cut into strips of rows: the same numbers, and its transpose, which is the
gradient, sums over strips.
"""

import jax
import jax.numpy as jnp

_FEATURES = 8  # that many are summed over at full speed
_Padding = tuple[int, int]


def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: _Padding = (1, 1)) -> jax.Array:
    """x (b, h, w, i), kernel (k, k, i, o), zeros (before, after) each axis -> (b, h', w', o)."""
    if stride == 1 and kernel.shape[0] == 3 and padding == (1, 1):
        return _same(x, kernel)
    return _conv(x, kernel, stride, padding, padding)


def _conv(x: jax.Array, kernel: jax.Array, stride: int = 1, rows: _Padding = (1, 1), columns: _Padding = (1, 1)):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (rows, columns), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_jvp
def _same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _conv(x, kernel)


@_same.defjvp
def _same_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    by_kernel = jax.lax.platform_dependent(x, dkernel, cpu=_in_strips, default=_conv)
    return _conv(x, kernel), _conv(dx, kernel) + by_kernel


def _in_strips(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`_conv`, a strip of rows after the other."""
    b, h, w, c = x.shape
    strips = 1
    while b * strips < _FEATURES and h % (2 * strips) == 0 and h // (2 * strips) >= 2:
        strips *= 2
    if strips == 1:
        return _conv(x, kernel)
    rows = h // strips
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    cut = jnp.stack([padded[:, i * rows : (i + 1) * rows + 2] for i in range(strips)], 1)
    return _conv(cut.reshape(b * strips, rows + 2, w, c), kernel, rows=(0, 0)).reshape(b, h, w, -1)
