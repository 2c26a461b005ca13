"""Time grids: the falling times at which a solver calls the denoiser."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp

from sdejax.sde.base import SDE

if TYPE_CHECKING:  # half a second to import, which a program that is compiled already need not wait for
    pass


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
