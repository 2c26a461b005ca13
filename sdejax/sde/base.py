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

import jax
import jax.numpy as jnp
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
        alpha, slope = value_and_slope(self.alpha, t)
        return per_image(slope / alpha, x) * x

    def diffusion(self, t: ArrayLike) -> jax.Array:
        """The diffusion g(t) of eq. 3; the shape of `t`."""
        _, slope = value_and_slope(self.tau, t)
        return self.alpha(t) * jnp.sqrt(slope)

    def perturb(self, t: ArrayLike, x0: ArrayLike, noise: ArrayLike) -> jax.Array:
        """Eq. 1: alpha(t) x0 + sigma(t) noise; t is a scalar or (b,), x0 and noise are (b, *shape)."""
        return per_image(self.alpha(t), x0) * x0 + per_image(self.sigma(t), x0) * noise


def as_float(t: ArrayLike) -> jax.Array:
    """An array of floating point numbers: whole numbers become float32."""
    t = jnp.asarray(t)
    return t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(jnp.float32)


def value_and_slope(function, t: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """function(t) and its derivative, element by element."""
    t = as_float(t)
    return jax.jvp(function, (t,), (jnp.ones_like(t),))


def per_image(coefficient: jax.Array, x: ArrayLike) -> jax.Array:
    """A scalar, or (b,) lined up with the leading axis of x."""
    return jnp.reshape(
        coefficient, coefficient.shape + (1,) * (jnp.ndim(x) - coefficient.ndim) * (coefficient.ndim > 0)
    )
