"""Symmetries of an image, and keys whose noise has them: what the laws of equivariance need.

A symmetry puts values into another order, changes their sign or adds to them. A key carries the number of one, and
every array of random bits of an image's shape that is drawn from it, or from a key that is split off it, is transformed
by it. So one batch holds an image and its transforms, each with the noise transformed alike, in one program.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl

import sdejax as sj
from sdejax.pytrees import STATIC, pytree
from tests import quick_keys

SHAPE, SIZE = (4, 4, 3), 48
NAMES = ("identity", "values", "pixels", "flip", "negation", "translation")
ALL = tuple(range(len(NAMES)))
_RANDOM = np.random.default_rng(0)
_PLACES = np.arange(SIZE).reshape(SHAPE)
_ORDERS = np.stack([
    np.arange(SIZE),
    _RANDOM.permutation(SIZE),
    _RANDOM.permutation(_PLACES.reshape(16, 3)).reshape(-1),
    _PLACES[:, ::-1].reshape(-1),
    np.arange(SIZE),
    np.arange(SIZE),
])  # fmt: skip
_SIGNS = np.array([1, 1, 1, 1, -1, 1], np.float32)
_SHIFTS = np.zeros((6, SIZE), np.float32)
_SHIFTS[5] = _RANDOM.uniform(-0.5, 0.5, SIZE)
_UNUSED = 9  # of 32 random bits those that a float32 does not use


def transform(image, numbers=ALL):
    """An image (*SHAPE) under each symmetry, (n, *SHAPE)."""
    numbers = np.asarray(numbers)
    moved = _SIGNS[numbers, None] * np.reshape(image, SIZE)[_ORDERS[numbers]] + _SHIFTS[numbers]
    return moved.reshape(-1, *SHAPE)


def reorder(mask, numbers=ALL):
    """A mask (*SHAPE), whose values move with the image's places but not with what is added to them, (n, *SHAPE)."""
    return np.reshape(mask, SIZE)[_ORDERS[np.asarray(numbers)]].reshape(-1, *SHAPE)


@pytree
@dataclasses.dataclass(frozen=True)
class Alike:
    """A denoiser, transformed for each image of the batch by its own symmetry: T D(t, T^-1 x).

    A translation of the image by b is one of x_t by alpha b.
    """

    denoiser: sj.Denoiser
    sde: sj.SDE = dataclasses.field(metadata=STATIC)
    numbers: tuple[int, ...] = dataclasses.field(metadata=STATIC, default=ALL)

    def __call__(self, t, x) -> jax.Array:
        numbers = np.asarray(self.numbers)
        orders, signs, shifts = _ORDERS[numbers], _SIGNS[numbers, None], _SHIFTS[numbers]
        back = jnp.take_along_axis(signs * (x.reshape(-1, SIZE) - self.sde.alpha(t) * shifts), np.argsort(orders, 1), 1)
        found = self.denoiser(t, back.reshape(x.shape)).reshape(-1, SIZE)
        return jnp.asarray((signs * jnp.take_along_axis(found, orders, 1) + shifts).reshape(x.shape))


def _random_bits(data, width, shape):
    bits = quick_keys.random_bits(data[0], shape)
    if tuple(shape) != SHAPE:
        return bits
    # A uniform number in [-1, 1) is 2 m / 2^23 - 1, with m the upper 23 bits; the opposite one has 2^23 - m.
    opposite = jnp.minimum(2**23 - (bits >> _UNUSED), 2**23 - 1) << _UNUSED
    bits = jnp.where(jnp.asarray(_SIGNS)[data[1]] > 0, bits, opposite.astype(bits.dtype))
    return bits.reshape(SIZE)[jnp.asarray(_ORDERS)[data[1]]].reshape(SHAPE)


def _with_symmetry(words, data):
    return jnp.stack([words, jnp.broadcast_to(data[1], words.shape)], -1)


_IMPL = define_prng_impl(
    key_shape=(2,),
    seed=lambda seed: jnp.stack([quick_keys.seeded(jnp.asarray(seed).astype(jnp.uint32)), jnp.uint32(0)]),
    split=lambda data, shape: _with_symmetry(quick_keys.split(data[0], shape), data),
    random_bits=_random_bits,
    fold_in=lambda data, number: _with_symmetry(quick_keys.fold_in(data[0], number), data),
    name="symmetric",
    tag="symmetric",
)


def symmetric_keys(seed, numbers=ALL):
    """One key for each symmetry, all of the same seed."""
    words = quick_keys.seeded(np.full(len(numbers), seed, np.uint32))
    data = np.stack([words, np.asarray(numbers, np.uint32)], -1)
    return jax.random.wrap_key_data(data, impl=_IMPL)
