"""Products of few rows, with the bits that these rows have amid many.

XLA's CPU backend adds up a product by many weights in another order where it has few rows, as one image of 4 x 4 pixels
has, or its caption. The last bits of an image would follow from the number of others beside it, so such products are
filled up with rows of zeros in the programs that make images on CPUs.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sdejax.runtime.jit import same_bits

_ROWS = 64  # from 51 on the order is always the same
_WEIGHTS = 2**15  # up to which it is the same for few rows, too


def with_many_rows(
    product: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, kernel: jax.Array, rows: int
) -> jax.Array:
    """product(x, kernel), x (n, ...) -> (n, ...), of which each of the n has so many rows."""
    n = x.shape[0]
    if not same_bits() or n == 0 or n * rows >= _ROWS or kernel.size <= _WEIGHTS:
        return product(x, kernel)
    missing = -(-_ROWS // rows) - n
    return product(jnp.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1))), kernel)[:n]
