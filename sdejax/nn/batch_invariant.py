"""Matrix products and convolutions of few rows, with the bits that these rows have among many.

XLA's CPU backend adds up a product with many weights in another order if it has few rows: one image of 4 x 4 pixels, or
one caption. The last bits of an image would then depend on the number of images beside it. So inside
`sdejax.batch_invariant` such products are padded with rows of zeros.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sdejax.batch_invariance import is_batch_invariant

_ROWS = 64  # from 51 rows on the order is always the same
_WEIGHTS = 2**15  # up to this many weights the order is the same for few rows, too


def pad_rows(
    product: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, kernel: jax.Array, rows: int
) -> jax.Array:
    """product(x, kernel) for x (n, ...), whose n entries have `rows` rows each -> (n, ...)."""
    n = x.shape[0]
    few = 0 < n * rows < _ROWS and kernel.size > _WEIGHTS
    if not few or not is_batch_invariant() or jax.default_backend() != "cpu":
        return product(x, kernel)
    missing = -(-_ROWS // rows) - n
    return product(jnp.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1))), kernel)[:n]
