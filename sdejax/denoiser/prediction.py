r"""What a model is to a sampler: a denoiser, and the denoisers that are known exactly.

    (6)  D(t, x) = E[x0 | x_t = x].  From a network's output, without ever dividing by alpha where alpha may be 0:
         x0        D = output
         noise     D = (x - sigma output) / alpha                       (Ho et al. 2020)
         v         output = (alpha e - sigma x0) / sqrt(alpha^2 + sigma^2)  (Salimans and Ho 2022; any alpha, sigma)
         velocity  output = e - x0, so D = x - sigma output where alpha + sigma = 1  (Liu et al. 2023)
         edm       D = c_skip x + c_out output with the unit-variance scalings of Karras et al. 2022, table 1
         score   output = (alpha D - x) / sigma^2 (Tweedie's formula), so D = (x + sigma^2 output) / alpha
         scaled_score  output = sigma score = -e
    (7)  For Gaussian data, a Gaussian mixture, and a finite data set, D has a closed form.

A denoiser is a callable pytree: its arrays are leaves, everything else is static.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sdejax.sde.base import SDE, per_image

Prediction = Literal["noise", "x0", "v", "velocity", "edm", "score", "scaled_score"]


def denoised(prediction: Prediction, sde: SDE, t: ArrayLike, x: jax.Array, output: jax.Array, scale: float = 1.0):
    """Eq. 6: the denoiser from a network's output (b, *shape); `scale` is edm's standard deviation of the data."""
    alpha, sigma = per_image(sde.alpha(t), x), per_image(sde.sigma(t), x)
    if prediction == "x0":
        return output
    if prediction == "noise":
        return (x - sigma * output) / alpha
    if prediction == "scaled_score":
        return (x + sigma * output) / alpha
    if prediction == "score":
        return (x + jnp.square(sigma) * output) / alpha
    if prediction == "velocity":
        # x = alpha x0 + sigma e and output = e - x0 give x0 = (x - sigma output) / (alpha + sigma).
        return (x - sigma * output) / (alpha + sigma)
    # v is edm with unit data: c_out has the opposite sign by convention.
    scale, sign = (1.0, -1.0) if prediction == "v" else (scale, 1.0)
    variance = jnp.square(sigma) + jnp.square(alpha * scale)
    return (alpha * scale**2 / variance) * x + sign * (sigma * scale * jax.lax.rsqrt(variance)) * output


def target(prediction: Prediction, sde: SDE, t: ArrayLike, x0: jax.Array, noise: jax.Array, scale: float = 1.0):
    """What a network is trained to output for the pair (x0, noise): the inverse of `denoised`."""
    alpha, sigma = per_image(sde.alpha(t), x0), per_image(sde.sigma(t), x0)
    if prediction == "x0":
        return x0
    if prediction == "noise":
        return noise
    if prediction == "scaled_score":
        return -noise
    if prediction == "score":
        return -noise / sigma
    if prediction == "velocity":
        return noise - x0
    scale, sign = (1.0, -1.0) if prediction == "v" else (scale, 1.0)
    # (x0 - c_skip x) / c_out with x = alpha x0 + sigma noise, the division carried out.
    rate = jax.lax.rsqrt(jnp.square(sigma) + jnp.square(alpha * scale))
    return sign * rate * (sigma * x0 / scale - alpha * scale * noise)
