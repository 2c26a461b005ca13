"""3 x 3 convolutions of NHWC images with HWIO kernels, with one pixel of zeros around the image.

`convolve` is the plain formula. XLA's CPU backend is slow at it in two cases, and each has a kernel:

- The derivative by the kernel. Its transpose, which is the gradient, is a convolution in which the batch takes the
  place of the input channels, and the backend sums over few channels slowly: one image takes four times as long per
  image as eight. `convolve_in_strips` cuts the images into strips of rows, so that the gradient sums over strips.
- Few output channels, as at the end of a network. The backend gathers the nine neighbours of every pixel first, which
  costs the same for few outputs as for many. `convolve_by_shifts` multiplies every pixel by all nine matrices
  at once, then shifts the products and adds them.
"""

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

_ENOUGH_STRIPS = 8  # the backend sums over eight channels at full speed


def convolve(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "k k i o"],
    stride: int = 1,
    rows: tuple[int, int] = (1, 1),
    columns: tuple[int, int] = (1, 1),
) -> Float[Array, "b h2 w2 o"]:
    """The plain convolution, for every size, stride and zero padding (before, after) of rows and columns."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (rows, columns), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_jvp
def convolve_with_strip_gradient(
    x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]
) -> Float[Array, "b h w o"]:
    """`convolve`, whose derivative by the kernel is `convolve_in_strips` on a CPU."""
    return convolve(x, kernel)


def _strip_gradient_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array | SymbolicZero, jax.Array | SymbolicZero]
) -> tuple[jax.Array, jax.Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    y = convolve(x, kernel)
    by_x = None if isinstance(dx, SymbolicZero) else convolve(dx, kernel)
    if isinstance(dkernel, SymbolicZero):
        return y, jnp.zeros_like(y) if by_x is None else by_x
    by_kernel = jax.lax.platform_dependent(x, dkernel, cpu=convolve_in_strips, default=convolve)
    return y, by_kernel if by_x is None else by_x + by_kernel


convolve_with_strip_gradient.defjvp(_strip_gradient_jvp, symbolic_zeros=True)


def convolve_in_strips(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b h w o"]:
    """`convolve` of strips of rows: each image becomes 2, 4 or 8 images, if its height allows."""
    b, h, w, c = x.shape
    strips = 1
    while b * strips < _ENOUGH_STRIPS and h % (2 * strips) == 0 and h // (2 * strips) >= 2:
        strips *= 2
    if strips == 1:
        return convolve(x, kernel)
    rows = h // strips
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    cut = jnp.stack([padded[:, i * rows : (i + 1) * rows + 2] for i in range(strips)], 1)
    return convolve(cut.reshape(b * strips, rows + 2, w, c), kernel, rows=(0, 0)).reshape(b, h, w, -1)


def convolve_by_shifts(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b h w o"]:
    """`convolve` as one product of every pixel with all nine matrices; its results are shifted and added.

    The products and their sum are at least float32; the result is rounded once.
    """
    b, h, w, c = x.shape
    products = jax.lax.dot(
        x.reshape(-1, c),
        kernel.transpose(2, 0, 1, 3).reshape(c, -1),
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )
    sent = jnp.pad(products.reshape(b, h, w, 3, 3, -1), ((0, 0), (1, 1), (1, 1), (0, 0), (0, 0), (0, 0)))
    received = sum(sent[:, i : i + h, j : j + w, i, j] for i in range(3) for j in range(3))
    return jnp.asarray(received, x.dtype)
