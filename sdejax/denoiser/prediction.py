r"""What a network's output means: one class for each convention of the field.

    (6)  D(t, x) = E[x0 | x_t = x].  From a network's output, never divided by an alpha that may be 0:
         clean image   output = x0                   D = output
         noise         output = e                    D = (x - sigma output) / alpha             (Ho et al. 2020)
         v             output = (alpha e - sigma x0) / sqrt(alpha^2 + sigma^2)  (Salimans and Ho 2022; any alpha, sigma)
         velocity      output = alpha' x0 + sigma' e, the derivative of x_t by t  (Lipman et al. 2023)
                       D = (sigma' x - sigma output) / (alpha sigma' - alpha' sigma)
         displacement  output = e - x0               D = (x - sigma output) / (alpha + sigma)
         EDM           D = c_skip x + c_out output with the unit-variance scalings of Karras et al. 2022, table 1
         score         output = (alpha D - x) / sigma^2 (Tweedie's formula), so D = (x + sigma^2 output) / alpha
         scaled score  output = sigma score = -e     D = (x + sigma output) / alpha

Velocity and displacement agree for rectified flow, whose alpha' = -1 and sigma' = 1.
"""

import abc
import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sdejax.sde.base import SDE, per_image, value_and_slope


@dataclasses.dataclass(frozen=True)
class Prediction(abc.ABC):
    """What a network predicts (eq. 6). Frozen and hashable: static under `jax.jit`."""

    @abc.abstractmethod
    def denoised(self, sde: SDE, t: ArrayLike, x: jax.Array, output: jax.Array) -> jax.Array:
        """D from the network's output (b, *shape) at times t () or (b,) for x (b, *shape)."""

    @abc.abstractmethod
    def target(self, sde: SDE, t: ArrayLike, x0: jax.Array, noise: jax.Array) -> jax.Array:
        """What the network is trained to output for the pair (x0, noise): the inverse of `denoised`."""

    def input(self, sde: SDE, t: ArrayLike, x: jax.Array) -> jax.Array:
        """What the network reads in place of x: x itself, unless the convention scales it."""
        del sde, t
        return x

    def rescaled(self, output: jax.Array, scale: float) -> jax.Array:
        """The output in our units, of a network whose images and noise levels are `scale` times ours."""
        del scale
        return output

    def check_scale(self, scale: float) -> None:
        """**Raises:** `ValueError` if the convention has no meaning in units that are `scale` times ours."""
        if scale != 1.0:
            raise ValueError(f"prediction={self!r}: must be a noise or a score for images in other units")


@dataclasses.dataclass(frozen=True)
class PredictCleanImage(Prediction):
    """x0 itself."""

    def denoised(self, sde: SDE, t: ArrayLike, x: jax.Array, output: jax.Array) -> jax.Array:
        """The output."""
        return output

    def target(self, sde: SDE, t: ArrayLike, x0: jax.Array, noise: jax.Array) -> jax.Array:
        """x0."""
        return x0


@dataclasses.dataclass(frozen=True)
class PredictNoise(Prediction):
    """The noise e (Ho et al. 2020)."""

    def denoised(self, sde: SDE, t: ArrayLike, x: jax.Array, output: jax.Array) -> jax.Array:
        """(x - sigma output) / alpha."""
        alpha, sigma = _scales(sde, t, x)
        return (x - sigma * output) / alpha

    def target(self, sde: SDE, t: ArrayLike, x0: jax.Array, noise: jax.Array) -> jax.Array:
        """e."""
        return noise

    def check_scale(self, scale: float) -> None:
        """Any: the noise is the same in all units."""


@dataclasses.dataclass(frozen=True)
class PredictVelocity(Prediction):
    """alpha' x0 + sigma' e, the derivative of x_t by time (Lipman et al. 2023; rectified flow: e - x0)."""

    def denoised(self, sde: SDE, t: ArrayLike, x: jax.Array, output: jax.Array) -> jax.Array:
        """(sigma' x - sigma output) / (alpha sigma' - alpha' sigma)."""
        (alpha, alpha_slope), (sigma, sigma_slope) = _slopes(sde, t, x)
        rate = sigma / sigma_slope  # 0 at VP's t = 0, where sigma' is infinite
        return (x - rate * output) / (alpha - rate * alpha_slope)

    def target(self, sde: SDE, t: ArrayLike, x0: jax.Array, noise: jax.Array) -> jax.Array:
        """alpha' x0 + sigma' e."""
        (_, alpha_slope), (_, sigma_slope) = _slopes(sde, t, x0)
        return alpha_slope * x0 + sigma_slope * noise


@dataclasses.dataclass(frozen=True)
class PredictDisplacement(Prediction):
    """e - x0, from the image to its noise, for every process. Snapshots of format 1 call it "velocity"."""

    def denoised(self, sde: SDE, t: ArrayLike, x: jax.Array, output: jax.Array) -> jax.Array:
        """(x - sigma output) / (alpha + sigma), because x = alpha x0 + sigma e."""
        alpha, sigma = _scales(sde, t, x)
        return (x - sigma * output) / (alpha + sigma)

    def target(self, sde: SDE, t: ArrayLike, x0: jax.Array, noise: jax.Array) -> jax.Array:
        """e - x0."""
        return noise - x0


@dataclasses.dataclass(frozen=True)
class EDM(Prediction):
    """Karras et al. 2022, table 1, for any process: input and target have unit variance.

    `data_std` is the standard deviation of the data.
    """

    data_std: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.data_std < math.inf:
            raise ValueError(f"data_std={self.data_std}: must be above 0 and finite")

    def denoised(self, sde: SDE, t: ArrayLike, x: jax.Array, output: jax.Array) -> jax.Array:
        """c_skip x + c_out output."""
        skip, scale, _ = _preconditioning(sde, t, x, self.data_std)
        return skip * x + scale * output

    def target(self, sde: SDE, t: ArrayLike, x0: jax.Array, noise: jax.Array) -> jax.Array:
        """(x0 - c_skip x) / c_out with x = alpha x0 + sigma e, the division carried out."""
        alpha, sigma = _scales(sde, t, x0)
        rate = _preconditioning(sde, t, x0, self.data_std)[2]
        return rate * (sigma * x0 / self.data_std - alpha * self.data_std * noise)

    def input(self, sde: SDE, t: ArrayLike, x: jax.Array) -> jax.Array:
        """x over its standard deviation."""
        return x * _preconditioning(sde, t, x, self.data_std)[2]


@dataclasses.dataclass(frozen=True)
class PredictV(Prediction):
    """(alpha e - sigma x0) / sqrt(alpha^2 + sigma^2) (Salimans and Ho 2022): minus EDM's for unit data."""

    def denoised(self, sde: SDE, t: ArrayLike, x: jax.Array, output: jax.Array) -> jax.Array:
        """c_skip x - c_out output."""
        skip, scale, _ = _preconditioning(sde, t, x, 1.0)
        return skip * x - scale * output

    def target(self, sde: SDE, t: ArrayLike, x0: jax.Array, noise: jax.Array) -> jax.Array:
        """(alpha e - sigma x0) / sqrt(alpha^2 + sigma^2)."""
        alpha, sigma = _scales(sde, t, x0)
        return _preconditioning(sde, t, x0, 1.0)[2] * (alpha * noise - sigma * x0)

    def input(self, sde: SDE, t: ArrayLike, x: jax.Array) -> jax.Array:
        """x over its standard deviation for unit data."""
        return x * _preconditioning(sde, t, x, 1.0)[2]


@dataclasses.dataclass(frozen=True)
class PredictScore(Prediction):
    """The score, grad log p_t(x) (Song et al. 2021)."""

    def denoised(self, sde: SDE, t: ArrayLike, x: jax.Array, output: jax.Array) -> jax.Array:
        """(x + sigma^2 output) / alpha."""
        alpha, sigma = _scales(sde, t, x)
        return (x + jnp.square(sigma) * output) / alpha

    def target(self, sde: SDE, t: ArrayLike, x0: jax.Array, noise: jax.Array) -> jax.Array:
        """-e / sigma."""
        return -noise / _scales(sde, t, x0)[1]

    def rescaled(self, output: jax.Array, scale: float) -> jax.Array:
        """A derivative by x in units that are `scale` times ours."""
        return scale * output

    def check_scale(self, scale: float) -> None:
        """Any."""


@dataclasses.dataclass(frozen=True)
class PredictScaledScore(Prediction):
    """sigma times the score, which is -e."""

    def denoised(self, sde: SDE, t: ArrayLike, x: jax.Array, output: jax.Array) -> jax.Array:
        """(x + sigma output) / alpha."""
        alpha, sigma = _scales(sde, t, x)
        return (x + sigma * output) / alpha

    def target(self, sde: SDE, t: ArrayLike, x0: jax.Array, noise: jax.Array) -> jax.Array:
        """-e."""
        return -noise

    def check_scale(self, scale: float) -> None:
        """Any: the noise is the same in all units."""


def _scales(sde: SDE, t: ArrayLike, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """alpha and sigma, lined up with x."""
    return per_image(sde.alpha(t), x), per_image(sde.sigma(t), x)


def _slopes(sde: SDE, t: ArrayLike, x: jax.Array) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """(alpha, alpha') and (sigma, sigma'), lined up with x."""
    (a, da), (s, ds) = value_and_slope(sde.alpha, t), value_and_slope(sde.sigma, t)
    return (per_image(a, x), per_image(da, x)), (per_image(s, x), per_image(ds, x))


def _preconditioning(sde: SDE, t: ArrayLike, x: jax.Array, data_std: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """EDM's c_skip, c_out and c_in, lined up with x."""
    alpha, sigma = _scales(sde, t, x)
    variance = jnp.square(sigma) + jnp.square(alpha * data_std)
    rate = jax.lax.rsqrt(variance)
    return alpha * data_std**2 / variance, sigma * data_std * rate, rate
