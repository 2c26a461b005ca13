"""How good a model is during training: the denoiser's error on held-out images, and sheets of samples."""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike
from PIL import Image

from sdejax.denoiser.protocol import Denoiser
from sdejax.media.images import contact_sheet, to_image
from sdejax.model.model import Model, UnknownWordWarning
from sdejax.runtime.jit import jit
from sdejax.runtime.sharding import fetch, images_sharding, place
from sdejax.sampling.sample import sample
from sdejax.sde.base import SDE
from sdejax.solvers.sampler import Sampler

LEVELS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
_LAG = 0.05  # a lag is reported from here on: log of the moving average's validation loss over that of the weights


def quiet_denoiser(model: Model, prompts: Sequence[str] | None, guidance: float | None = None) -> Denoiser:
    """The denoiser for prompts, without warnings about unknown words, which held-out captions may have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownWordWarning)
        return model.denoiser(prompts, guidance)


@partial(jit, static_argnames=("sde",))
def _denoiser_error(denoiser: Denoiser, sde: SDE, t: ArrayLike, images: jax.Array, noise: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(denoiser(jnp.asarray(t), sde.perturb(t, images, noise)) - images))


@dataclasses.dataclass(frozen=True)
class Validation:
    """Held-out images (n, h, w, c) in [-1, 1] with their prompts, on a mesh."""

    model: Model
    mesh: Mesh
    images: np.ndarray
    prompts: tuple[str, ...]
    seed: int

    def loss(self, params: optax.Params) -> dict[str, float]:
        """E |D - x0|^2 per value, by noise level. The noise is the same each time."""
        prompts = self.prompts if self.model.conditioner.prompted else None
        denoiser = quiet_denoiser(self.model.with_params(params), prompts)
        sharding, losses = images_sharding(self.mesh), {}
        images = place(self.images, sharding)
        for i, level in enumerate(LEVELS):
            key = jax.random.fold_in(jax.random.key(self.seed), i)
            noise = place(jax.random.normal(key, self.images.shape), sharding)
            # A time of numpy is the same on every process, and on all devices.
            time = np.asarray(self.model.sde.time(np.float32(level**2)))
            losses[str(level)] = float(_denoiser_error(denoiser, self.model.sde, time, images, noise))
        return losses


def whole_rows(count: int, wanted: int, devices: int) -> np.ndarray:
    """Which of `count` images to take for at most about `wanted` that devices share equally. Some may occur twice."""
    rows = min(count, wanted) // devices * devices or devices
    return np.arange(rows) % count


def lag(average: dict[str, float], weights: dict[str, float]) -> float | None:
    """By which share the moving average's validation loss exceeds that of the weights; None for a small share.

    Both are losses by noise level, as `Validation.loss` returns them.
    """
    ratios = [math.log(average[level] / weights[level]) for level in average]
    mean = sum(ratios) / len(ratios)
    return math.expm1(mean) if mean > _LAG else None


def sample_sheet(
    model: Model,
    trees: Sequence[optax.Params],
    prompts: Sequence[str] | None,
    mesh: Mesh,
    guidance: float | None = None,
) -> Image.Image:
    """A sheet of samples: a row for each tree of parameters, with the same seeds from 0 on and the same prompts.

    A row has 16 samples, or a few more so that the devices share them equally.
    """
    count = -(-16 // mesh.size) * mesh.size
    seeds = np.arange(count, dtype=np.uint32)
    keys = jax.jit(jax.vmap(jax.random.key), out_shardings=images_sharding(mesh))(seeds)
    texts = None if prompts is None else [prompts[i * len(prompts) // count] for i in range(count)]
    rows: list[Image.Image] = []
    for params in trees:
        denoiser = quiet_denoiser(model.with_params(params), texts, guidance)
        drawn = sample(denoiser, model.sde, keys, model.shape, sampler=Sampler(steps=20))
        rows.extend(to_image(image) for image in fetch(drawn, mesh))
    return contact_sheet(rows, columns=count, scale=1 if model.shape[0] > 64 else 2)
