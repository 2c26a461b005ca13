"""Rectified flow (eq. 4)."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sdejax.sde.base import SDE, as_float


@dataclasses.dataclass(frozen=True)
class RectifiedFlow(SDE):
    """Rectified flow: the straight line alpha = 1 - t, sigma = t (Liu et al. 2023; Lipman et al. 2023)."""

    def alpha(self, t: ArrayLike) -> jax.Array:
        """1 - t."""
        return 1.0 - as_float(t)

    def sigma(self, t: ArrayLike) -> jax.Array:
        """t."""
        return as_float(t)

    def tau(self, t: ArrayLike) -> jax.Array:
        """(t / (1 - t))^2."""
        t = as_float(t)
        return jnp.square(t / (1.0 - t))

    def time(self, tau: ArrayLike) -> jax.Array:
        """1 / (1 + 1 / sqrt(tau)), which is 1 at tau = infinity."""
        return 1.0 / (1.0 + 1.0 / jnp.sqrt(as_float(tau)))

    @property
    def tau_max(self) -> float:
        """Noise level 200, at which nothing of an image in [-1, 1] is left; tau(1) itself is infinite."""
        return 200.0**2
