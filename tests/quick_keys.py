"""Keys whose random bits are a hash of a few operations.

Threefry is half of what a small program has to compile, and a law that does not depend on the draws needs no better
ones than these.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl


def mixed(h):
    """A hash of 32 bits (the finaliser of MurmurHash3)."""
    h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def _counters(shape):
    return jax.lax.iota(jnp.uint32, int(np.prod(shape))).reshape(shape)


def seeded(seeds):
    """The words of seeds, uint32 of the same shape."""
    return mixed(seeds + np.uint32(0x9E3779B9))


def split(word, shape):
    """Words of that shape."""
    return mixed(mixed(_counters(shape) + np.uint32(1)) ^ (word * np.uint32(3)))


def fold_in(word, number):
    """Another word ()."""
    return mixed(mixed(jnp.asarray(number).astype(jnp.uint32) + np.uint32(2)) ^ (word * np.uint32(5)))


def random_bits(word, shape):
    """32 bits each."""
    return mixed(mixed(_counters(shape) + np.uint32(3)) + word)


_IMPL = define_prng_impl(
    key_shape=(1,),
    seed=lambda seed: seeded(jnp.asarray(seed).astype(jnp.uint32))[None],
    split=lambda data, shape: split(data[0], shape)[..., None],
    random_bits=lambda data, width, shape: random_bits(data[0], shape),
    fold_in=lambda data, number: fold_in(data[0], number)[None],
    name="quick",
    tag="quick",
)


def quick_keys(count):
    """(count,) keys."""
    return jax.random.wrap_key_data(seeded(np.arange(count, dtype=np.uint32))[:, None], impl=_IMPL)
