"""Time grids: the falling times at which a solver calls the denoiser.

A grid is a function (sde, start, steps) -> (steps,) times that fall from `start`. It is differentiable by `start`.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from sdejax.sde.base import SDE

Grid = Callable[[SDE, jax.Array, int], jax.Array]
GridName = Literal["log_snr", "time", "edm"]
GridChoice = GridName | Grid | tuple[float, ...]


def log_snr_grid(sde: SDE, start: jax.Array, steps: int) -> jax.Array:
    """Times uniform in log(sigma / alpha), from `start` down to the smallest noise level of the process."""
    log_tau = jnp.log(_tau_of_start(sde, start))
    last = jnp.minimum(log_tau, math.log(sde.tau_min))
    return _from(start, sde.time(jnp.exp(log_tau + (last - log_tau) * _fractions(steps))))


def time_grid(sde: SDE, start: jax.Array, steps: int) -> jax.Array:
    """Times uniform in t: start, start (1 - 1/steps), ... start / steps."""
    del sde
    return start * (1.0 - jnp.arange(steps) / steps)


def edm_grid(sde: SDE, start: jax.Array, steps: int, rho: float = 7.0) -> jax.Array:
    """Times with (sigma / alpha)^(1 / rho) uniform (Karras et al. 2022, eq. 5)."""
    level = jnp.sqrt(_tau_of_start(sde, start))
    last = jnp.minimum(level, math.sqrt(sde.tau_min))
    first, last = level ** (1.0 / rho), last ** (1.0 / rho)
    return _from(start, sde.time(jnp.square((first + (last - first) * _fractions(steps)) ** rho)))


GRIDS: dict[str, Grid] = {"log_snr": log_snr_grid, "time": time_grid, "edm": edm_grid}


def _tau_of_start(sde: SDE, start: jax.Array) -> jax.Array:
    """tau(start), at most the process's largest; its derivative is 0 beyond it, where tau may be infinite."""
    beyond = ~(sde.tau(start) < sde.tau_max)
    return jnp.where(beyond, sde.tau_max, sde.tau(jnp.where(beyond, 0.5, start)))


def _fractions(steps: int) -> jax.Array:
    return jnp.arange(steps) / max(steps - 1, 1)


def _from(start: jax.Array, times: jax.Array) -> jax.Array:
    """The times with the start in place of the first, free of the round trip through tau."""
    return jnp.minimum(times, start).at[0].set(start)
