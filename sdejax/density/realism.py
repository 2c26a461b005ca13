"""How realistic a model finds an image: as typical as its own samples?

Likelihood alone does not say: a flat painting is more likely than any sample. So the image is compared with samples in
how well the denoiser gets it back,

    (20)  l_k(x) = log E |D(t_k, alpha_k x + sigma_k e) - x|^2 per value,   at a few noise levels sigma_k / alpha_k
          d(x)^2 = (l - m)^T C^-1 (l - m),   m and C the mean and the covariance of l over the model's samples
          realism(x) = share of the samples whose d is no smaller than d(x)

which is 1 at the centre of the samples, near 0 far from all of them, and uniform in [0, 1] over the samples themselves:
too smooth an image is as far out as too rough a one (the typical set of Nalisnick et al. 2019, with the terms of the
variational bound for its statistics).
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from sdejax.denoiser.protocol import Denoiser
from sdejax.noise.keys import check_keys, stream
from sdejax.runtime.jit import jit
from sdejax.sampling.sample import sample
from sdejax.sde.base import SDE
from sdejax.solvers.sampler import Sampler

LEVELS = (0.1, 0.3, 1.0, 3.0)  # below, every image is recovered; above, none is
_DRAWS = 4


@partial(jit, static_argnames=("sde", "levels"))
def _errors(denoiser, sde, images, keys, levels):
    def at(level, number):
        t = sde.time(jnp.square(level))

        def once(draw, total):
            noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(stream(keys, number * _DRAWS + draw))
            error = jnp.square(denoiser(t, sde.perturb(t, images, noise)) - images)
            return total + jnp.mean(error, tuple(range(1, images.ndim)))

        return jax.lax.fori_loop(0, _DRAWS, once, jnp.zeros(images.shape[0])) / _DRAWS

    return jnp.log(jax.lax.map(lambda pair: at(*pair), (jnp.asarray(levels), jnp.arange(len(levels))))).T


def denoising_errors(
    denoiser: Denoiser, sde: SDE, images: ArrayLike, keys: jax.Array, levels: tuple[float, ...] = LEVELS
) -> jax.Array:
    """l of eq. 20 for images (b, *shape) in [-1, 1], with noises of their keys (b,): (b, len(levels))."""
    check_keys(keys)
    return _errors(denoiser, sde, jnp.asarray(images), keys, tuple(levels))


@dataclasses.dataclass(frozen=True)
class Realism:
    """The samples of a model as eq. 20 sees them: `mean` (k,), `precision` (k, k), `distances` (n,) in rising order."""

    mean: np.ndarray
    precision: np.ndarray
    distances: np.ndarray

    @classmethod
    def of(cls, errors: np.ndarray) -> "Realism":
        """From the l (n, k) of n samples, n well above k.

        **Raises:** `ValueError` for fewer than 4 k samples, or if an error is not finite.
        """
        errors = np.asarray(errors, np.float64)
        if len(errors) < 4 * errors.shape[1]:
            raise ValueError(
                f"samples={len(errors)}: must be at least {4 * errors.shape[1]} for {errors.shape[1]} levels"
            )
        if not np.isfinite(errors).all():
            raise ValueError("samples: one of the model's is not finite; the model or its sampler is broken")
        precision = np.linalg.inv(np.atleast_2d(np.cov(errors.T)))
        mean = errors.mean(0)
        return cls(mean, precision, np.sort(_distance(errors, mean, precision)))

    def __call__(self, errors: np.ndarray) -> np.ndarray:
        """Realism in [0, 1] of images by their l, (b, k) -> (b,)."""
        far = _distance(np.asarray(errors, np.float64), self.mean, self.precision)
        return 1.0 - np.searchsorted(self.distances, far, side="left") / len(self.distances)


def _distance(errors: np.ndarray, mean: np.ndarray, precision: np.ndarray) -> np.ndarray:
    away = errors - mean
    return np.sqrt(np.einsum("bi,ij,bj->b", away, precision, away))


def calibrate(
    denoiser: Denoiser, sde: SDE, keys: jax.Array, shape: tuple[int, ...], *, sampler: Sampler | None = None
) -> Realism:
    """What the model's own samples look like to it: one for each of `keys` (b,), drawn with `sampler`.

    Costs the samples, and 4 denoiser calls per level for each.

    **Raises:** `ValueError` for fewer keys than 4 times the levels, 16.
    """
    images = sample(denoiser, sde, keys, shape, sampler=sampler)
    return Realism.of(np.asarray(denoising_errors(denoiser, sde, images, keys)))
