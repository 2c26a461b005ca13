"""One Brownian path per image, a function of the image's key only.

    (5)  the clock  s = (log tau_hi - log tau) / (log tau_hi - log tau_lo)  in [0, 1], 0 = noise, 1 = data.
         Unit noise of a step from s to s':  xi = (W(s') - W(s)) / sqrt(s' - s).

The clock runs over noise levels 1e4 to 1e-4, the same for every process, so that a key means the same path under VP,
VE, sub-VP and RF, for any strength, number of steps and batch. The path is a virtual tree (diffrax's
`VirtualBrownianTree`): it is never stored, and can be asked for at any s in any order.
"""

import dataclasses
import math

import diffrax
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sdejax.denoiser import STATIC, pytree

_LOG_TAU_HI, _LOG_TAU_LO = 2.0 * math.log(1e4), 2.0 * math.log(1e-4)
LOG_TAU_RANGE = _LOG_TAU_HI - _LOG_TAU_LO


def clock(log_tau: ArrayLike) -> jax.Array:
    """s of eq. 5 for log(tau), clipped to [0, 1]."""
    return jnp.clip((_LOG_TAU_HI - jnp.asarray(log_tau)) / LOG_TAU_RANGE, 0.0, 1.0)


def log_tau_at(s: ArrayLike) -> jax.Array:
    """The inverse of `clock`."""
    return _LOG_TAU_HI - LOG_TAU_RANGE * jnp.asarray(s)


@pytree
@dataclasses.dataclass(frozen=True)
class BrownianPaths:
    """One path for each of `keys` (b,), each of `shape`; `depth` halvings of [0, 1] resolve 2^-depth.

    A deeper tree refines the same path. One evaluation costs `depth` images of normal numbers, so `depth` should be no
    more than the steps need. `levy_area` is what a diffrax solver asks for.
    """

    keys: jax.Array
    shape: tuple[int, ...] = dataclasses.field(metadata=STATIC)
    depth: int = dataclasses.field(default=12, metadata=STATIC)
    levy_area: type = dataclasses.field(default=diffrax.BrownianIncrement, metadata=STATIC)

    def start(self) -> jax.Array:
        """Unit noise (b, *shape), independent of the path: the noise of the state a solver starts from."""
        return jax.vmap(lambda key: jax.random.normal(_split(key)[0], self.shape))(self.keys)

    def evaluate(self, s: ArrayLike) -> jax.Array:
        """W(s), of shape (b, *shape), for a scalar s in [0, 1]."""
        s = jnp.clip(jnp.asarray(s, jnp.float32), 0.0, 1.0)
        return jax.vmap(lambda key: self._tree(key).evaluate(s))(self.keys)  # pyright: ignore[reportReturnType]

    def increment(self, s0: ArrayLike, s1: ArrayLike) -> diffrax.AbstractBrownianIncrement:
        """W(s1) - W(s0) with the Levy area that a solver asked for; leaves (b, *shape), `dt` (b,)."""
        s0, s1 = (jnp.clip(jnp.asarray(s, jnp.float32), 0.0, 1.0) for s in (s0, s1))
        return jax.vmap(lambda key: self._tree(key).evaluate(s0, s1, use_levy=True))(self.keys)

    def _tree(self, key: jax.Array) -> diffrax.VirtualBrownianTree:
        return diffrax.VirtualBrownianTree(
            0.0, 1.0, tol=2.0**-self.depth, shape=self.shape, key=_split(key)[1], levy_area=self.levy_area
        )


def _split(key: jax.Array) -> jax.Array:
    return jax.random.split(key)


def stream(keys: jax.Array, number: int | jax.Array) -> jax.Array:
    """Keys (b,) of another independent stream of the same images."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
