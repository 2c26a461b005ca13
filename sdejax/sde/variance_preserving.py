"""Variance preserving processes (eq. 4): VP in continuous and in discrete time, and sub-VP."""

import abc
import dataclasses
import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from sdejax.sde.base import SDE, as_float


class VariancePreserving(SDE):
    """alpha^2 + sigma^2 = 1: what B(t), the integral of beta, is enough for."""

    @abc.abstractmethod
    def integral(self, t: jax.Array) -> jax.Array:
        """B(t); the shape of `t`."""

    def alpha(self, t: ArrayLike) -> jax.Array:
        """exp(-B / 2)."""
        return jnp.exp(-0.5 * self.integral(as_float(t)))

    def sigma(self, t: ArrayLike) -> jax.Array:
        """sqrt(1 - exp(-B)), without cancellation at small t."""
        return jnp.sqrt(-jnp.expm1(-self.integral(as_float(t))))

    def tau(self, t: ArrayLike) -> jax.Array:
        """expm1(B)."""
        return jnp.expm1(self.integral(as_float(t)))


@dataclasses.dataclass(frozen=True)
class VPSDE(VariancePreserving):
    """Variance preserving: alpha^2 + sigma^2 = 1, beta(t) linear from `beta_min` to `beta_max`.

    DDPM's process in continuous time (Ho et al. 2020; Song et al. 2021, eq. 11).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _check_betas(self.beta_min, self.beta_max)

    def integral(self, t: jax.Array) -> jax.Array:
        return _beta_integral(self, t)

    def time(self, tau: ArrayLike) -> jax.Array:
        """Solves B(t) = log(1 + tau)."""
        return _beta_time(self, jnp.log1p(as_float(tau)))

    @property
    def tau_max(self) -> float:
        """tau(1)."""
        return math.expm1(0.5 * (self.beta_min + self.beta_max))


@dataclasses.dataclass(frozen=True)
class DiscreteVPSDE(VariancePreserving):
    """Variance preserving, through the levels of a discrete chain (Ho et al. 2020): level k of n is at t = (k + 1) / n.

    There alpha^2 is the product of 1 - betas up to k. Between two levels beta(t) is constant, so B(t) is linear; t = 0
    is the data, without noise.
    """

    betas: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.betas or not all(0.0 < beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas: {len(self.betas)} numbers, must be at least one, each above 0 and below 1")

    def __repr__(self) -> str:
        # Kept programs are named by what they follow from as it is written: two chains may not be written alike.
        all_of_them = hashlib.sha256(np.asarray(self.betas, np.float64).tobytes()).hexdigest()[:16]
        return f"DiscreteVPSDE({len(self.betas)} betas, {self.betas[0]:g} to {self.betas[-1]:g}, {all_of_them})"

    @property
    def _knots(self) -> tuple[np.ndarray, np.ndarray]:
        """The times 0, 1/n, ... 1 and B there."""
        integral = np.concatenate([[0.0], np.cumsum(-np.log1p(-np.asarray(self.betas, np.float64)))])
        return np.linspace(0.0, 1.0, len(integral)), integral

    def integral(self, t: jax.Array) -> jax.Array:
        times, integral = self._knots
        return jnp.interp(t, times.astype(t.dtype), integral.astype(t.dtype))

    def time(self, tau: ArrayLike) -> jax.Array:
        """Solves B(t) = log(1 + tau)."""
        tau = as_float(tau)
        times, integral = self._knots
        return jnp.interp(jnp.log1p(tau), integral.astype(tau.dtype), times.astype(tau.dtype))

    @property
    def tau_max(self) -> float:
        """tau(1)."""
        return math.expm1(self._knots[1][-1])


@dataclasses.dataclass(frozen=True)
class SubVPSDE(SDE):
    """Sub-variance preserving: VP's alpha with sigma = 1 - alpha^2 (Song et al. 2021, eq. 13)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _check_betas(self.beta_min, self.beta_max)

    def alpha(self, t: ArrayLike) -> jax.Array:
        """exp(-B / 2)."""
        return jnp.exp(-0.5 * _beta_integral(self, t))

    def sigma(self, t: ArrayLike) -> jax.Array:
        """1 - exp(-B), without cancellation at small t."""
        return -jnp.expm1(-_beta_integral(self, t))

    def tau(self, t: ArrayLike) -> jax.Array:
        """(2 sinh(B / 2))^2: sigma / alpha = exp(B / 2) - exp(-B / 2)."""
        return jnp.square(2.0 * jnp.sinh(0.5 * _beta_integral(self, t)))

    def time(self, tau: ArrayLike) -> jax.Array:
        """Solves 2 sinh(B(t) / 2) = sqrt(tau)."""
        return _beta_time(self, 2.0 * jnp.arcsinh(0.5 * jnp.sqrt(as_float(tau))))

    @property
    def tau_max(self) -> float:
        """tau(1)."""
        return (2.0 * math.sinh(0.25 * (self.beta_min + self.beta_max))) ** 2


def _beta_integral(sde: VPSDE | SubVPSDE, t: ArrayLike) -> jax.Array:
    """B(t), the integral of the linear beta from 0 to t."""
    t = as_float(t)
    return t * (sde.beta_min + 0.5 * (sde.beta_max - sde.beta_min) * t)


def _beta_time(sde: VPSDE | SubVPSDE, integral: jax.Array) -> jax.Array:
    """The t with B(t) = integral: the root of a quadratic, in the form without cancellation."""
    slope = sde.beta_max - sde.beta_min
    return 2.0 * integral / (sde.beta_min + jnp.sqrt(sde.beta_min**2 + 2.0 * slope * integral))


def _check_betas(beta_min: float, beta_max: float) -> None:
    if not 0.0 < beta_min <= beta_max < math.inf:
        raise ValueError(f"beta_min={beta_min}, beta_max={beta_max}: must be finite with 0 < beta_min <= beta_max")
