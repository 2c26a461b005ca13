"""What is solved: a tuple of components that share the times, and what moves each of them.

Sampling has one component, an edit has several. For each component a `Drive` gives its denoised image D, or None if it
is pure noise, and its noise, made from the unit noises of the paths.
"""

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp

from sdejax.noise.brownian import BrownianPaths
from sdejax.noise.keys import stream
from sdejax.pytrees import STATIC, pytree
from sdejax.sde.base import SDE

State = tuple[jax.Array, ...]
Signals = tuple[jax.Array | None, ...]
FAR = 1000.0  # stands for an infinite |log tau|: its exponential is 0 in float32, its differences are finite


class Drive(Protocol):
    """What moves the components of a state: a callable pytree, its batch leaves marked `PerImage`."""

    def __call__(self, t: jax.Array, state: State) -> Signals:
        """D of each component at time t (), each (b, *shape), or None for a component of pure noise."""
        ...

    def noise(self, state: State, unit: State) -> Signals:
        """The noise of each component, linear in the `unit` noises of the paths, or None."""
        ...


@dataclasses.dataclass(frozen=True)
class Components:
    """What is static about a state's components.

    - `stochasticity`: lam of each component; infinity draws its noise afresh at every step.
    - `driven`: which components have a D; the others are pure noise.
    - `paths`: the number of Brownian paths that each image has.
    - `multiplicative`: whether the noise depends on the state.
    """

    stochasticity: tuple[float, ...]
    driven: tuple[bool, ...] = (True,)
    paths: int = 1
    multiplicative: bool = False

    @property
    def noisy(self) -> bool:
        """Whether any component takes noise."""
        return any(lam > 0.0 for lam in self.stochasticity)


@pytree
@dataclasses.dataclass(frozen=True)
class Problem:
    """What is solved: `drive` moves the components of a state under `sde`, along the paths of `keys` (b,).

    - `begin` (b, *shape), if given, is each value's own starting time: before it, D does not act on the value.
    - `depth`, if given, is the depth of the paths' trees; by default it follows from the number of steps.
    """

    drive: Drive
    components: Components = dataclasses.field(metadata=STATIC)
    sde: SDE = dataclasses.field(metadata=STATIC)
    keys: jax.Array
    begin: jax.Array | None = None
    depth: int | None = dataclasses.field(default=None, metadata=STATIC)

    def begun(self, t: jax.Array) -> jax.Array | float:
        """1 for values that have begun by time t, 0 for the others; a value that begins at 0 never does."""
        return 1.0 if self.begin is None else ((self.begin >= t) & (self.begin > 0.0)).astype(self.begin.dtype)

    def paths(self, shape: tuple[int, ...], steps: int, levy_area: type | None = None) -> tuple[BrownianPaths, ...]:
        """The Brownian paths of the images, deep enough for so many steps; none if no component takes noise."""
        depth = depth_of(steps) if self.depth is None else self.depth
        count = self.components.paths if self.components.noisy else 0
        return tuple(BrownianPaths(stream(self.keys, i), shape, depth, levy_area) for i in range(count))


def log_tau_of(sde: SDE, t: jax.Array) -> jax.Array:
    """log(tau) at time t, kept within -FAR to FAR; its derivative is 0 beyond them."""
    value = jnp.log(sde.tau(t))
    far = ~(jnp.abs(value) < FAR)
    near = jnp.where(far, 0.5, t)  # a derivative of infinity times 0 would be nan
    return jnp.where(far, jnp.where(value > 0.0, FAR, -FAR), jnp.log(sde.tau(near)))


def last_step(problem: Problem, t: jax.Array, state: State, signals: Signals | None = None) -> State:
    """The last step: D itself. Values that began after t take only their own share of it.

    `signals` are the D at (t, state), if they are known already; else they are computed.
    """
    share = 1.0 if problem.begin is None else share_of_last(problem.begin, t)
    signals = problem.drive(t, state) if signals is None else signals
    return tuple(jnp.zeros_like(x) if d is None else share * d for x, d in zip(state, signals, strict=True))


def share_of_last(begin: jax.Array, t: jax.Array) -> jax.Array:
    """The share of the last step that a value takes if it began at `begin`. VE's last time t is 0."""
    return jnp.clip(begin / jnp.maximum(t, 1e-12), 0.0, 1.0)


def depth_of(steps: int) -> int:
    """How many halvings of the clock resolve `steps` steps of any grid, from noise levels above 0.1.

    The common grids use half of the clock or less. Below that level several steps may share a leaf of the tree, and
    lose a little noise.
    """
    return math.ceil(math.log2(steps)) + 4
