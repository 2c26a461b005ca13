r"""Forward processes: a process is two numbers, alpha(t) and sigma(t).

For data x0, unit noise e and time t in [0, 1], with t = 0 the data and t = 1 the noise:

    (1)  x_t = alpha(t) x0 + sigma(t) e
    (2)  tau = (sigma / alpha)^2, the noise-to-signal ratio, increasing in t, with its inverse t(tau)
    (3)  dx = f x dt + g dW,   f = d log(alpha) / dt,   g^2 = alpha^2 dtau / dt
    (4)  VP      tau = expm1(B),   B = int_0^t beta                 (Song et al. 2021, eq. 11)
                 beta linear in t, or through the levels of DDPM   (Ho et al. 2020)
         sub-VP  sigma = 1 - alpha^2, with VP's alpha               (Song et al. 2021, eq. 13)
         VE      alpha = 1, sigma geometric                         (Song et al. 2021, eq. 9)
         RF      alpha = 1 - t, sigma = t                           (Liu et al. 2023)

A subclass states (1), (2) and the inverse of (2) in numerically stable form; drift, diffusion and
perturbation are derived from them once, in the base class. All four are one process seen through a change of
scale (alpha) and of clock (tau), which is why the solvers are written once.

`sqrt(tau) = sigma / alpha` is called the *noise level*: the standard deviation of the noise on top of an image
in [-1, 1].
"""

import abc
import dataclasses
import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

# Below noise level 0.01 an image in [-1, 1] is finer than its 8-bit rounding; solvers need not resolve it.
_SMALLEST_LEVEL = 0.01


class SDE(abc.ABC):
    """A forward process on t in [0, 1]. Instances are frozen and hashable: static under `jax.jit`."""

    @abc.abstractmethod
    def alpha(self, t: ArrayLike) -> jax.Array:
        """Signal scale alpha(t) of eq. 1; the shape of `t`."""

    @abc.abstractmethod
    def sigma(self, t: ArrayLike) -> jax.Array:
        """Noise scale sigma(t) of eq. 1; the shape of `t`."""

    @abc.abstractmethod
    def tau(self, t: ArrayLike) -> jax.Array:
        """Noise-to-signal ratio (sigma / alpha)^2 of eq. 2; the shape of `t`. Infinite for RF at t = 1."""

    @abc.abstractmethod
    def time(self, tau: ArrayLike) -> jax.Array:
        """The inverse of `tau`: the time in [0, 1] at which the noise-to-signal ratio is `tau`."""

    @property
    def tau_min(self) -> float:
        """The smallest noise-to-signal ratio that a solver visits (the clock's s = 1, eq. 5)."""
        return _SMALLEST_LEVEL**2

    @property
    @abc.abstractmethod
    def tau_max(self) -> float:
        """The largest noise-to-signal ratio that the clock resolves (its s = 0, eq. 5)."""

    def drift(self, t: ArrayLike, x: ArrayLike) -> jax.Array:
        """The drift f(t) x of eq. 3; t is a scalar or (b,), x is (b, *shape)."""
        alpha, slope = _value_and_slope(self.alpha, t)
        return per_image(slope / alpha, x) * x

    def diffusion(self, t: ArrayLike) -> jax.Array:
        """The diffusion g(t) of eq. 3; the shape of `t`."""
        _, slope = _value_and_slope(self.tau, t)
        return self.alpha(t) * jnp.sqrt(slope)

    def perturb(self, t: ArrayLike, x0: ArrayLike, noise: ArrayLike) -> jax.Array:
        """Eq. 1: alpha(t) x0 + sigma(t) noise; t is a scalar or (b,), x0 and noise are (b, *shape)."""
        return per_image(self.alpha(t), x0) * x0 + per_image(self.sigma(t), x0) * noise


class _VariancePreserving(SDE):
    """alpha^2 + sigma^2 = 1: what B(t), the integral of beta, is enough for."""

    @abc.abstractmethod
    def _integral(self, t: jax.Array) -> jax.Array:
        """B(t); the shape of `t`."""

    def alpha(self, t: ArrayLike) -> jax.Array:
        """exp(-B / 2)."""
        return jnp.exp(-0.5 * self._integral(_float(t)))

    def sigma(self, t: ArrayLike) -> jax.Array:
        """sqrt(1 - exp(-B)), without cancellation at small t."""
        return jnp.sqrt(-jnp.expm1(-self._integral(_float(t))))

    def tau(self, t: ArrayLike) -> jax.Array:
        """expm1(B)."""
        return jnp.expm1(self._integral(_float(t)))


@dataclasses.dataclass(frozen=True)
class VPSDE(_VariancePreserving):
    """Variance preserving: alpha^2 + sigma^2 = 1, beta(t) linear from `beta_min` to `beta_max`.

    DDPM's process in continuous time (Ho et al. 2020; Song et al. 2021, eq. 11).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _check_betas(self.beta_min, self.beta_max)

    def _integral(self, t: jax.Array) -> jax.Array:
        return _beta_integral(self, t)

    def time(self, tau: ArrayLike) -> jax.Array:
        """Solves B(t) = log(1 + tau)."""
        return _beta_time(self, jnp.log1p(_float(tau)))

    @property
    def tau_max(self) -> float:
        """tau(1)."""
        return math.expm1(0.5 * (self.beta_min + self.beta_max))


@dataclasses.dataclass(frozen=True)
class DiscreteVPSDE(_VariancePreserving):
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

    def _integral(self, t: jax.Array) -> jax.Array:
        times, integral = self._knots
        return jnp.interp(t, times.astype(t.dtype), integral.astype(t.dtype))

    def time(self, tau: ArrayLike) -> jax.Array:
        """Solves B(t) = log(1 + tau)."""
        tau = _float(tau)
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
        return _beta_time(self, 2.0 * jnp.arcsinh(0.5 * jnp.sqrt(_float(tau))))

    @property
    def tau_max(self) -> float:
        """tau(1)."""
        return (2.0 * math.sinh(0.25 * (self.beta_min + self.beta_max))) ** 2


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
        return jnp.ones_like(_float(t))

    def sigma(self, t: ArrayLike) -> jax.Array:
        """sigma_min (sigma_max / sigma_min)^t."""
        return self.sigma_min * jnp.exp(self._log_range * _float(t))

    def tau(self, t: ArrayLike) -> jax.Array:
        """sigma^2."""
        return jnp.square(self.sigma(t))

    def time(self, tau: ArrayLike) -> jax.Array:
        """log(sqrt(tau) / sigma_min) / log(sigma_max / sigma_min)."""
        return jnp.maximum(0.5 * jnp.log(_float(tau)) - math.log(self.sigma_min), 0.0) / self._log_range

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


@dataclasses.dataclass(frozen=True)
class RectifiedFlow(SDE):
    """Rectified flow: the straight line alpha = 1 - t, sigma = t (Liu et al. 2023; Lipman et al. 2023)."""

    def alpha(self, t: ArrayLike) -> jax.Array:
        """1 - t."""
        return 1.0 - _float(t)

    def sigma(self, t: ArrayLike) -> jax.Array:
        """t."""
        return _float(t)

    def tau(self, t: ArrayLike) -> jax.Array:
        """(t / (1 - t))^2."""
        t = _float(t)
        return jnp.square(t / (1.0 - t))

    def time(self, tau: ArrayLike) -> jax.Array:
        """1 / (1 + 1 / sqrt(tau)), which is 1 at tau = infinity."""
        return 1.0 / (1.0 + 1.0 / jnp.sqrt(_float(tau)))

    @property
    def tau_max(self) -> float:
        """Noise level 200, where nothing of an image in [-1, 1] is left; tau(1) itself is infinite."""
        return 200.0**2


def _float(t: ArrayLike) -> jax.Array:
    t = jnp.asarray(t)
    return t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(jnp.float32)


def _beta_integral(sde: VPSDE | SubVPSDE, t: ArrayLike) -> jax.Array:
    """B(t), the integral of the linear beta from 0 to t."""
    t = _float(t)
    return t * (sde.beta_min + 0.5 * (sde.beta_max - sde.beta_min) * t)


def _beta_time(sde: VPSDE | SubVPSDE, integral: jax.Array) -> jax.Array:
    """The t with B(t) = integral: the root of a quadratic, in the form without cancellation."""
    slope = sde.beta_max - sde.beta_min
    return 2.0 * integral / (sde.beta_min + jnp.sqrt(sde.beta_min**2 + 2.0 * slope * integral))


def _check_betas(beta_min: float, beta_max: float) -> None:
    if not 0.0 < beta_min <= beta_max < math.inf:
        raise ValueError(f"beta_min={beta_min}, beta_max={beta_max}: must be finite with 0 < beta_min <= beta_max")


def _value_and_slope(function, t: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """function(t) and its derivative, element by element."""
    t = _float(t)
    return jax.jvp(function, (t,), (jnp.ones_like(t),))


def per_image(coefficient: jax.Array, x: ArrayLike) -> jax.Array:
    """A scalar, or (b,) lined up with the leading axis of x."""
    return jnp.reshape(
        coefficient, coefficient.shape + (1,) * (jnp.ndim(x) - coefficient.ndim) * (coefficient.ndim > 0)
    )
