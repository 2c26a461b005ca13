"""The denoisers that are known exactly (eq. 7)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sdejax.pytrees import STATIC, pytree
from sdejax.sde.base import SDE, per_image


@pytree
@dataclasses.dataclass(frozen=True)
class GaussianDenoiser:
    """Exact for data N(mean, std^2), pixel by pixel; mean and std broadcast to an image (eq. 7)."""

    sde: SDE = dataclasses.field(metadata=STATIC)
    mean: ArrayLike = 0.0
    std: ArrayLike = 1.0

    def __call__(self, t: ArrayLike, x: jax.Array) -> jax.Array:
        """(std^2 alpha x + sigma^2 mean) / (std^2 alpha^2 + sigma^2)."""
        alpha, sigma = per_image(self.sde.alpha(t), x), per_image(self.sde.sigma(t), x)
        variance = jnp.square(self.std)
        return (variance * alpha * x + jnp.square(sigma) * self.mean) / (
            variance * jnp.square(alpha) + jnp.square(sigma)
        )


@pytree
@dataclasses.dataclass(frozen=True)
class MixtureDenoiser:
    """Exact for a mixture of isotropic Gaussians (eq. 7): weights (k,), means (k, *shape), stds () or (k,)."""

    sde: SDE = dataclasses.field(metadata=STATIC)
    weights: ArrayLike
    means: ArrayLike
    stds: ArrayLike

    def __call__(self, t: ArrayLike, x: jax.Array) -> jax.Array:
        """The components' denoisers, weighted by how likely each component made x."""
        shape, size = x.shape, math.prod(x.shape[1:])
        x = jnp.reshape(x, (shape[0], 1, size))
        means = jnp.reshape(jnp.asarray(self.means), (1, -1, size))
        stds = jnp.reshape(jnp.asarray(self.stds), (1, -1, 1))
        log_weights = jnp.reshape(jnp.log(jnp.asarray(self.weights)), (1, -1, 1))
        alpha, sigma = per_image(self.sde.alpha(t), x), per_image(self.sde.sigma(t), x)
        # Data without spread (stds 0) at sigma = 0 would be 0 / 0.
        variance = jnp.maximum(jnp.square(alpha * stds) + jnp.square(sigma), 1e-20)
        # Products with reciprocals, not quotients: XLA makes the one of the other in some programs and not in others.
        precision = jax.lax.optimization_barrier(1.0 / variance)
        distance = precision * _sum(jnp.square(x - alpha * means), 2)
        likelihood = log_weights - 0.5 * (distance + size * jnp.log(variance))
        share = jnp.exp(likelihood - jnp.max(likelihood, 1, keepdims=True))
        share = share * jax.lax.optimization_barrier(1.0 / _sum(share, 1))
        component = (jnp.square(stds) * alpha * x + jnp.square(sigma) * means) * precision
        return jnp.reshape(_sum(share * component, 1), shape)


def _sum(x: jax.Array, axis: int) -> jax.Array:
    """The sum along an axis, kept as length 1, in an order of its own: halves are added until one is left.

    XLA orders a reduction differently for other batch sizes; an image must not depend on its batch, to the last bit.
    """
    while x.shape[axis] > 1:
        if x.shape[axis] % 2:
            x = jnp.pad(x, [(0, int(a == axis)) for a in range(x.ndim)])
        half = x.shape[axis] // 2
        x = jax.lax.optimization_barrier(x)
        x = jax.lax.slice_in_dim(x, 0, half, axis=axis) + jax.lax.slice_in_dim(x, half, None, axis=axis)
    return x


@pytree
@dataclasses.dataclass(frozen=True)
class DatasetDenoiser:
    """Exact for a finite data set (n, *shape), every image equally likely (eq. 7).

    softmax over -|x / alpha - x_i|^2 / 2 tau. Costs one pass over the data set per image and call.
    """

    sde: SDE = dataclasses.field(metadata=STATIC)
    data: ArrayLike

    def __call__(self, t: ArrayLike, x: jax.Array) -> jax.Array:
        """The mean of the data, weighted by how likely each made x."""
        data = jnp.asarray(self.data)
        one = MixtureDenoiser(self.sde, jnp.ones(data.shape[0]), data, 0.0)
        times = jnp.broadcast_to(t, x.shape[:1])
        # One image at a time: memory for one comparison with the data, not for a batch of them.
        return jax.lax.map(lambda pair: one(pair[0], pair[1][None])[0], (times, x))
