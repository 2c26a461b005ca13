"""Products and convolutions of few rows, with the bits that these rows have among many.

A row is one pixel, or one word of a caption. XLA's CPU backend adds up a product with many weights in another order if
it has few rows, such as one image of 4 x 4 pixels or one caption. The last bits of an image would then depend on the
number of images beside it. So programs inside `sdejax.batch_invariant` pad such products with rows of zeros.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax.batch_invariance import is_batch_invariant

_ROWS = 64  # from 51 rows on the order is always the same
_WEIGHTS = 2**15  # up to this many weights the order is the same for few rows, too

Product = Callable[[jax.Array, jax.Array], jax.Array]


def product_of_rows(
    product: Product, x: Float[Array, "n ..."], kernel: Float[Array, "..."], rows: int
) -> Float[Array, "n ..."]:
    """product(x, kernel), padded if the bits would depend on n and batch-invariant programs are asked for.

    Each of the n entries of x has `rows` rows.
    """
    few = 0 < x.shape[0] * rows < _ROWS and kernel.size > _WEIGHTS
    if few and is_batch_invariant() and jax.default_backend() == "cpu":
        return padded_product_of_rows(product, x, kernel, rows)
    return product(x, kernel)


def padded_product_of_rows(
    product: Product, x: Float[Array, "n ..."], kernel: Float[Array, "..."], rows: int
) -> Float[Array, "n ..."]:
    """product(x, kernel), computed with entries of zeros after x that make it at least 64 rows."""
    n = x.shape[0]
    missing = -(-_ROWS // rows) - n
    return product(jnp.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1))), kernel)[:n]
