"""Convolution of NHWC images with HWIO kernels.

The gradient by the kernel is itself a convolution, in which the batch takes the part of the features that are summed
over. XLA's CPU backend sums few features slowly (four times as long for one image as for eight), so the derivative by
the kernel is written for images that are cut into strips of rows: the same numbers, and its transpose, which is the
gradient, sums over strips.

The same backend first gathers the nine neighbours of every pixel, however few features come out of it. At a network's
end, where they are few, every pixel is instead multiplied by all nine matrices at once, and the results are shifted and
added.
"""

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from sdejax.nn.batch_invariant import pad_rows

_FEATURES = 8  # that many are summed over at full speed
_WIDE = 128  # from so many features on, few pixels are summed in the order of many
_Padding = tuple[int, int]


def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: _Padding = (1, 1)) -> jax.Array:
    """x (b, h, w, i), kernel (k, k, i, o), zeros (before, after) each axis -> (b, h', w', o)."""
    if stride != 1 or kernel.shape[0] != 3 or padding != (1, 1):
        return _conv(x, kernel, stride, padding, padding)
    if 9 * kernel.shape[3] <= kernel.shape[2]:
        return jax.lax.platform_dependent(x, kernel, cpu=_shifted, default=_conv)
    if min(kernel.shape[2:]) >= _WIDE:
        return _same(x, kernel)
    return pad_rows(_same, x, kernel, x.shape[1] * x.shape[2])


def _conv(x: jax.Array, kernel: jax.Array, stride: int = 1, rows: _Padding = (1, 1), columns: _Padding = (1, 1)):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (rows, columns), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_jvp
def _same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _conv(x, kernel)


def _same_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array | SymbolicZero, jax.Array | SymbolicZero]
) -> tuple[jax.Array, jax.Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    y = _conv(x, kernel)
    by_x = None if isinstance(dx, SymbolicZero) else _conv(dx, kernel)
    if isinstance(dkernel, SymbolicZero):
        return y, jnp.zeros_like(y) if by_x is None else by_x
    by_kernel = jax.lax.platform_dependent(x, dkernel, cpu=_in_strips, default=_conv)
    return y, by_kernel if by_x is None else by_x + by_kernel


_same.defjvp(_same_jvp, symbolic_zeros=True)


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


def _shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`_conv`: every pixel times all nine matrices, then the sum of what each pixel's neighbours sent it."""
    b, h, w, c = x.shape
    products = jax.lax.dot(
        x.reshape(-1, c),
        kernel.transpose(2, 0, 1, 3).reshape(c, -1),
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )
    sent = jnp.pad(products.reshape(b, h, w, 3, 3, -1), ((0, 0), (1, 1), (1, 1), (0, 0), (0, 0), (0, 0)))
    arrived = sum(sent[:, i : i + h, j : j + w, i, j] for i in range(3) for j in range(3))
    return jnp.asarray(arrived, x.dtype)
