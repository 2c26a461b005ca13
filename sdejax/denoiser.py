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

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sdejax.sde import SDE, per_image

Prediction = Literal["noise", "x0", "v", "velocity", "edm", "score", "scaled_score"]
T = TypeVar("T")


class Denoiser(Protocol):
    """Any callable pytree D(t, x): t a scalar or (b,), x (b, *shape) -> the expected clean images (b, *shape)."""

    def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
        """E[x0 | x_t = x]."""
        ...


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


def score(denoiser: Denoiser, sde: SDE, t: ArrayLike, x: jax.Array) -> jax.Array:
    """The score, grad log p_t(x) = (alpha D - x) / sigma^2, of shape (b, *shape); t must be above 0."""
    t = jnp.asarray(t)
    alpha, sigma = per_image(sde.alpha(t), x), per_image(sde.sigma(t), x)
    return (alpha * denoiser(t, x) - x) / jnp.square(sigma)


STATIC = {"static": True}  # metadata of a dataclass field that is part of the program, not of the data


def pytree(cls: type[T]) -> type[T]:
    """Register a dataclass: fields with the metadata `STATIC` are static, the others are leaves."""
    return jax.tree_util.register_dataclass(cls)


@pytree
@dataclasses.dataclass(frozen=True)
class PerImage:
    """Marks a leaf of a denoiser whose leading axis is the batch (a prompt for each image, say).

    Leaves without the mark are the same for every image; a batch spread over devices splits only marked ones.
    """

    value: jax.Array


def split_per_image(tree: Any) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """The arrays of a pytree that are marked `PerImage`, and how to rebuild it with others in their places."""
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda leaf: isinstance(leaf, PerImage))
    marked = [leaf.value for leaf in leaves if isinstance(leaf, PerImage)]

    def rebuild(values: list[jax.Array]) -> Any:
        rest = iter(values)
        return structure.unflatten(PerImage(next(rest)) if isinstance(leaf, PerImage) else leaf for leaf in leaves)

    return marked, rebuild


@pytree
@dataclasses.dataclass(frozen=True)
class GuidedDenoiser:
    """Guidance: D = D_u + scale (D_c - D_u) (Ho and Salimans 2022). `scale` is a leaf: changing it compiles nothing."""

    conditional: Denoiser
    unconditional: Denoiser
    scale: ArrayLike

    def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
        """Two denoiser calls."""
        base = self.unconditional(t, x)
        return base + self.scale * (self.conditional(t, x) - base)


@pytree
@dataclasses.dataclass(frozen=True)
class GaussianDenoiser:
    """Exact for data N(mean, std^2), pixel by pixel; mean and std broadcast to an image (eq. 7)."""

    sde: SDE = dataclasses.field(metadata=STATIC)
    mean: ArrayLike = 0.0
    std: ArrayLike = 1.0

    def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
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

    def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
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

    def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
        """The mean of the data, weighted by how likely each made x."""
        data = jnp.asarray(self.data)
        one = MixtureDenoiser(self.sde, jnp.ones(data.shape[0]), data, 0.0)
        times = jnp.broadcast_to(t, x.shape[:1])
        # One image at a time: memory for one comparison with the data, not for a batch of them.
        return jax.lax.map(lambda pair: one(pair[0], pair[1][None])[0], (times, x))
