"""One Brownian path per image, a function of the image's key only.

    (5)  the clock  s = (log tau_hi - log tau) / (log tau_hi - log tau_lo)  in [0, 1], 0 = noise, 1 = data.
         Unit noise of a step from s to s':  xi = (W(s') - W(s)) / sqrt(s' - s).

The clock runs over noise levels 1e4 to 1e-4, the same for every process. So a key means the same path under VP, VE,
sub-VP and RF, for any strength, number of steps and batch. The path is a virtual tree (diffrax's
`VirtualBrownianTree`): it is never stored, and can be evaluated at any s in any order. A `Walk` evaluates the same path
in rising order. It keeps the branch that it is on, and computes only the nodes that it has not met before.
"""

import dataclasses
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sdejax.pytrees import STATIC, pytree

if TYPE_CHECKING:  # it takes half a second to import
    import diffrax


_LOG_TAU_HI, _LOG_TAU_LO = 2.0 * math.log(1e4), 2.0 * math.log(1e-4)


_UNKNOWN = 2.0  # the left end of a node that a walk has not reached: greater than every s


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

    A deeper tree refines the same path. One evaluation costs `depth` + 2 images of normal numbers, and a walk's step
    over n leaves costs about log2(n) + 3. So `depth` should be no more than the steps need. `levy_area` is the class of
    Levy areas that a diffrax solver asks for, or None.
    """

    keys: jax.Array
    shape: tuple[int, ...] = dataclasses.field(metadata=STATIC)
    depth: int = dataclasses.field(default=12, metadata=STATIC)
    levy_area: type | None = dataclasses.field(default=None, metadata=STATIC)

    def start(self) -> jax.Array:
        """Unit noise (b, *shape), independent of the path: the noise of the state a solver starts from."""
        return jax.vmap(lambda key: jax.random.normal(_split(key)[0], self.shape))(self.keys)

    def evaluate(self, s: ArrayLike) -> jax.Array:
        """W(s), of shape (b, *shape), for a scalar s in [0, 1]."""
        s = _on_clock(s)
        return jax.vmap(lambda key: self._tree(key).evaluate(s))(self.keys)  # pyright: ignore[reportReturnType]

    def increment(self, s0: ArrayLike, s1: ArrayLike) -> "diffrax.AbstractBrownianIncrement":
        """W(s1) - W(s0) with the Levy area that a solver asked for; leaves (b, *shape), `dt` (b,)."""
        s0, s1 = _on_clock(s0), _on_clock(s1)
        return jax.vmap(lambda key: self._tree(key).evaluate(s0, s1, use_levy=True))(self.keys)

    def walk(self) -> "Walk":
        """A walk along the path, at s = 0."""
        own = jax.vmap(lambda key: jax.random.split(self._tree(key).key))(self.keys)
        images = jnp.zeros((self.depth + 1, *self.keys.shape, *self.shape))
        return Walk(
            self.depth,
            jnp.full(self.depth + 1, _UNKNOWN).at[0].set(0.0),
            jnp.broadcast_to(own[:, 0], (self.depth + 1, *self.keys.shape)),
            images,
            images.at[0].set(_normals(own[:, 1], self.shape)),
        )

    def _tree(self, key: jax.Array) -> "diffrax.VirtualBrownianTree":
        import diffrax

        area = self.levy_area or diffrax.BrownianIncrement
        return diffrax.VirtualBrownianTree(
            0.0, 1.0, tol=2.0**-self.depth, shape=self.shape, key=_split(key)[1], levy_area=area
        )


@pytree
@dataclasses.dataclass(frozen=True)
class Walk:
    """One branch of the paths' trees, from the root (level 0) to a leaf (level `depth`).

    The node at level n spans (left[n], left[n] + 2^-n]; W is value[n] at its left end and grows by rise[n] over it.
    """

    depth: int = dataclasses.field(metadata=STATIC)
    left: jax.Array
    keys: jax.Array
    value: jax.Array
    rise: jax.Array

    def to(self, s: jax.Array) -> "tuple[Walk, jax.Array]":
        """The walk at a scalar s in [0, 1] no less than before, and W(s), (b, *shape); `BrownianPaths.evaluate`'s."""
        s = _on_clock(s)
        spans = 0.5 ** jnp.arange(self.depth + 1)
        holds = ((s > self.left) & (s <= self.left + spans)).at[0].set(True)
        known = jnp.sum(jnp.cumprod(holds.astype(jnp.int32)))
        walk = jax.lax.fori_loop(known, self.depth + 1, lambda level, walk: walk._descend(level, s), self)
        leaf, before = spans[-1], jax.nn.relu(s - walk.left[-1])
        spread = jnp.sqrt(before * jax.nn.relu(leaf - before) / leaf)
        inside = before / leaf * walk.rise[-1] + spread * _normals(walk.keys[-1], walk.value.shape[2:])
        return walk, walk.value[-1] + inside

    def _descend(self, level: jax.Array, s: jax.Array) -> "Walk":
        """The node at `level` that holds s: one half of its parent, W between them drawn given both ends."""
        left, value, rise = self.left[level - 1], self.value[level - 1], self.rise[level - 1]
        span = jnp.exp2(1.0 - level)
        first, middle, second = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(self.keys[level - 1]), 1, 0)
        bend = 0.5 * jnp.sqrt(span) * _normals(middle, value.shape[1:])
        first_half = 0.5 * rise + bend
        later = s > left + 0.5 * span
        return Walk(
            self.depth,
            self.left.at[level].set(jnp.where(later, left + 0.5 * span, left)),
            # diffrax's tree gives the later half the first key.
            self.keys.at[level].set(jnp.where(later, first, second)),
            self.value.at[level].set(jnp.where(later, value + first_half, value)),
            self.rise.at[level].set(jnp.where(later, 0.5 * rise - bend, first_half)),
        )


def _on_clock(s: ArrayLike) -> jax.Array:
    """A time of the clock; derivatives stop here, because a Brownian path has none by time."""
    return jax.lax.stop_gradient(jnp.clip(jnp.asarray(s, jnp.float32), 0.0, 1.0))


def _normals(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def _split(key: jax.Array) -> jax.Array:
    return jax.random.split(key)
