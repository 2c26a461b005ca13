"""The variance exploding process (eq. 4)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sdejax.sde.base import SDE, as_float


@dataclasses.dataclass(frozen=True)
class VESDE(SDE):
    """Variance exploding: alpha = 1, sigma geometric from `sigma_min` to `sigma_max` (Song et al. 2021, eq. 9)."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max}: must be finite with 0 < sigma_min < sigma_max"
            )

    def alpha(self, t: ArrayLike) -> jax.Array:
        """1."""
        return jnp.ones_like(as_float(t))

    def sigma(self, t: ArrayLike) -> jax.Array:
        """sigma_min (sigma_max / sigma_min)^t."""
        return self.sigma_min * jnp.exp(self._log_range * as_float(t))

    def tau(self, t: ArrayLike) -> jax.Array:
        """sigma^2."""
        return jnp.square(self.sigma(t))

    def time(self, tau: ArrayLike) -> jax.Array:
        """log(sqrt(tau) / sigma_min) / log(sigma_max / sigma_min)."""
        return jnp.maximum(0.5 * jnp.log(as_float(tau)) - math.log(self.sigma_min), 0.0) / self._log_range

    @property
    def tau_min(self) -> float:
        """sigma_min^2, the process's own smallest noise."""
        return self.sigma_min**2

    @property
    def tau_max(self) -> float:
        """sigma_max^2."""
        return self.sigma_max**2

    @property
    def _log_range(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)
