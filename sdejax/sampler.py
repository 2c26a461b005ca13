"""Which steps are taken, and how: time grids and the `Sampler`."""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp

from sdejax.sde import SDE

if TYPE_CHECKING:  # half a second to import, which a program that is compiled already need not wait for
    import diffrax

Grid = Callable[[SDE, jax.Array, int], jax.Array]
GridChoice = Literal["log_snr", "time", "edm"] | Grid | tuple[float, ...]


def log_snr_grid(sde: SDE, start: jax.Array, steps: int) -> jax.Array:
    """Times uniform in log(sigma / alpha), from `start` down to the smallest noise level of the process."""
    log_tau = jnp.log(jnp.minimum(sde.tau(start), sde.tau_max))
    last = jnp.minimum(log_tau, math.log(sde.tau_min))
    return _from(start, sde.time(jnp.exp(log_tau + (last - log_tau) * _fractions(steps))))


def time_grid(sde: SDE, start: jax.Array, steps: int) -> jax.Array:
    """Times uniform in t: start, start (1 - 1/steps), ... start / steps."""
    del sde
    return start * (1.0 - jnp.arange(steps) / steps)


def edm_grid(sde: SDE, start: jax.Array, steps: int, rho: float = 7.0) -> jax.Array:
    """Times with (sigma / alpha)^(1 / rho) uniform (Karras et al. 2022, eq. 5)."""
    level = jnp.sqrt(jnp.minimum(sde.tau(start), sde.tau_max))
    last = jnp.minimum(level, math.sqrt(sde.tau_min))
    first, last = level ** (1.0 / rho), last ** (1.0 / rho)
    return _from(start, sde.time(jnp.square((first + (last - first) * _fractions(steps)) ** rho)))


def _fractions(steps: int) -> jax.Array:
    return jnp.arange(steps) / max(steps - 1, 1)


def _from(start: jax.Array, times: jax.Array) -> jax.Array:
    """The times with the start in place of the first, free of the round trip through tau."""
    return jnp.minimum(times, start).at[0].set(start)


_GRIDS: dict[str, Grid] = {"log_snr": log_snr_grid, "time": time_grid, "edm": edm_grid}


@dataclasses.dataclass(frozen=True)
class Exponential:
    """The exponential solver of eq. 9, of order 1 or 2 in the denoiser."""

    order: Literal[1, 2] = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise ValueError(f"order={self.order}: must be 1 or 2")


@dataclasses.dataclass(frozen=True)
class Langevin:
    """The corrector of Song et al. 2021 (algorithms 4 and 5): steps of Langevin dynamics at each time, before the step.

    Their step size 2 alpha (snr |noise| / |score|)^2, alpha 1 for VE, is 2 snr^2 sigma^2 here: what it is where the
    noise has the norm of sigma times the score. So a step is linear in the state, and images do not depend on each
    other. As eq. 9 it is exact where D is constant:

        x' = c x + (1 - c) alpha D + sigma sqrt(1 - c^2) xi,   c = exp(-2 snr^2)

    The paper's `snr` are 0.16 for VE and 0.01 to 0.2 for VP, with 1 step.
    """

    snr: float = 0.16
    steps: int = 1

    def __post_init__(self) -> None:
        if not 0.0 < self.snr < math.inf:
            raise ValueError(f"snr={self.snr}: must be above 0 and finite")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"corrector steps={self.steps}: must be a whole number of at least 1")


@dataclasses.dataclass(frozen=True)
class Sampler:
    """How the reverse process is solved. Frozen and hashable: static under jit, so another one compiles anew.

    **Arguments:**

    - `steps`: the number of steps, at least 1, whatever the strength. An exponential step costs one denoiser call.
    - `grid`: "log_snr", "time", "edm", your own function (sde, start, steps) -> `steps` falling times that begin at
      `start`, or a tuple of `steps` fractions of the start that fall from 1.
    - `solver`: `Exponential(1)` or `Exponential(2)`, or any diffrax solver (eq. 10).
    - `stochasticity`: lam >= 0 of eq. 8.
    - `controller`: a diffrax step size controller; the steps of a diffrax solver are then chosen for each image,
      starting from the length that `steps` equal ones would have. An image whose steps come to no end is nan.
    - `corrector`: `Langevin()` before each exponential step; costs a denoiser call for each of its own steps.

    **Raises:** `ValueError` where an argument is outside its range.
    """

    steps: int = 50
    grid: GridChoice = "log_snr"
    solver: "Exponential | diffrax.AbstractSolver" = Exponential()
    stochasticity: float = 1.0
    controller: "diffrax.AbstractStepSizeController | None" = None
    corrector: Langevin | None = None

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps={self.steps}: must be a whole number of at least 1")
        if not 0.0 <= self.stochasticity < math.inf:
            raise ValueError(f"stochasticity={self.stochasticity}: must be at least 0 and finite")
        if isinstance(self.grid, str) and self.grid not in _GRIDS:
            raise ValueError(f"grid={self.grid!r}: must be one of {', '.join(_GRIDS)}, a function or a tuple")
        if not isinstance(self.solver, Exponential):
            import diffrax

            if not isinstance(self.solver, diffrax.AbstractSolver):
                raise ValueError(f"solver={self.solver!r}: must be Exponential(1), Exponential(2) or a diffrax solver")
        if self.controller is not None and isinstance(self.solver, Exponential):
            raise ValueError("controller: adaptive steps need a diffrax solver, not Exponential")
        if self.corrector is not None and not isinstance(self.solver, Exponential):
            raise ValueError(f"corrector={self.corrector}: needs solver=Exponential(1) or Exponential(2)")
        if isinstance(self.grid, tuple):
            falling = all(a > b for a, b in zip(self.grid, self.grid[1:], strict=False))
            if len(self.grid) != self.steps or self.grid[0] != 1.0 or not falling or self.grid[-1] <= 0.0:
                raise ValueError(
                    f"grid={self.grid}: a tuple must hold steps={self.steps} fractions, falling from 1 and above 0"
                )

    def times(self, sde: SDE, start: jax.Array) -> jax.Array:
        """The falling times (steps,) at which the denoiser is called, from `start` on."""
        if isinstance(self.grid, tuple):
            return start * jnp.asarray(self.grid, jnp.float32)
        grid = _GRIDS[self.grid] if isinstance(self.grid, str) else self.grid
        return grid(sde, start, self.steps)
