"""What a model is to a sampler: a denoiser, and the score that it implies (eq. 6)."""

from typing import Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sdejax.sde.base import SDE, per_image


class Denoiser(Protocol):
    """Any callable pytree D(t, x): t a scalar or (b,), x (b, *shape) -> the expected clean images (b, *shape)."""

    def __call__(self, t: ArrayLike, x: jax.Array) -> jax.Array:
        """E[x0 | x_t = x]."""
        ...


def score(denoiser: Denoiser, sde: SDE, t: ArrayLike, x: jax.Array) -> jax.Array:
    """The score, grad log p_t(x) = (alpha D - x) / sigma^2, of shape (b, *shape); t must be above 0."""
    t = jnp.asarray(t)
    alpha, sigma = per_image(sde.alpha(t), x), per_image(sde.sigma(t), x)
    return (alpha * denoiser(t, x) - x) / jnp.square(sigma)
