"""Seeds and keys: an image is its seed, and has streams of independent noise."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from sdejax.runtime.jit import jit


def keys(seeds: Iterable[int]) -> jax.Array:
    """One key for each seed, (b,): an image is its seed.

    **Raises:** `ValueError` if there are no seeds, or a seed is outside 0 to 2^32 - 1.
    """
    seeds = [int(seed) for seed in seeds]
    if not seeds or not all(0 <= seed < 2**32 for seed in seeds):
        raise ValueError(f"seeds={seeds}: must be at least one whole number from 0 to {2**32 - 1}")
    return _keys(np.asarray(seeds, np.uint32))  # by numpy: jax would compile a program for it


@jit
def _keys(seeds: ArrayLike) -> jax.Array:
    return jax.vmap(jax.random.key)(seeds)


def check_keys(keys: jax.Array) -> None:
    """**Raises:** `ValueError` unless `keys` is a (b,) array of typed keys."""
    if not hasattr(keys, "dtype") or not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.ndim != 1:
        raise ValueError("keys: must be a (b,) array of keys, one per image, such as sdejax.keys(range(8))")


def stream(keys: jax.Array, number: int | jax.Array) -> jax.Array:
    """Keys (b,) of another independent stream of the same images."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
