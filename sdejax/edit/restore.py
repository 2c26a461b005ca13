"""Restoration: find an image from a known linear part, such as its luminance or its means over blocks of pixels.

    (19) D_y = x0 + (1 - P)(D(t, y) - x0),   P the orthogonal projection on what is known

SDEdit (eq. 12) of a guide x0 that has the known part, such as the grey or the enlarged image, with that part kept on
the guide's own noisy path at every level: the replacement of Song et al. 2021, appendix I.2, for any projection (a mask
is the one on pixels). The known part of the result is the guide's.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sdejax.denoiser.protocol import Denoiser
from sdejax.edit.pair import edit
from sdejax.pytrees import STATIC, pytree
from sdejax.sde.base import SDE
from sdejax.solvers.sampler import Sampler
from sdejax.solvers.solve import OnStep


class Projection(Protocol):
    """An orthogonal projection of images on the part of them that is known: frozen and hashable, static under jit."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """P x of images (b, h, w, c): linear, P P = P, and symmetric."""
        ...

    def check(self, shape: tuple[int, ...]) -> None:
        """**Raises:** `ValueError` if images of `shape`, (b, h, w, c), have no such part."""
        ...


@dataclasses.dataclass(frozen=True)
class Luminance:
    """What a grey image tells: the sum of the channels with ITU-R BT.601's weights, as Pillow's "L" has it.

    `restore` finds the rest of the colour, whose projection is 0: colourisation.
    """

    weights: tuple[float, ...] = (0.299, 0.587, 0.114)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The colour of least change from black that has the luminance of each pixel."""
        weights = jnp.asarray(self.weights, x.dtype)
        return (x @ weights)[..., None] * (weights / jnp.sum(jnp.square(weights)))

    def check(self, shape: tuple[int, ...]) -> None:
        """**Raises:** `ValueError` for another number of channels."""
        if shape[-1] != len(self.weights):
            raise ValueError(
                f"known luminance: images of {shape[-1]} channels have none, {len(self.weights)} are needed"
            )


@dataclasses.dataclass(frozen=True)
class BlockMeans:
    """What an image reduced by a factor tells: the means of its blocks of factor x factor pixels (super-resolution)."""

    factor: int

    def __post_init__(self) -> None:
        if isinstance(self.factor, bool) or not isinstance(self.factor, int) or self.factor < 2:
            raise ValueError(f"known block means: factor={self.factor}: must be a whole number of at least 2")

    def __call__(self, x: jax.Array) -> jax.Array:
        """Every pixel as the mean of its block."""
        b, h, w, c = x.shape
        blocks = x.reshape(b, h // self.factor, self.factor, w // self.factor, self.factor, c)
        return jnp.broadcast_to(blocks.mean((2, 4), keepdims=True), blocks.shape).reshape(x.shape)

    def check(self, shape: tuple[int, ...]) -> None:
        """**Raises:** `ValueError` if the factor does not divide the sides."""
        if shape[1] % self.factor or shape[2] % self.factor:
            raise ValueError(
                f"known block means: factor={self.factor}: must divide the image's sides, {shape[1]} and {shape[2]}"
            )


@pytree
@dataclasses.dataclass(frozen=True)
class _Restore:
    known: Projection = dataclasses.field(metadata=STATIC)
    denoiser: Denoiser

    def __call__(self, t: jax.Array, z: jax.Array, y: jax.Array, image: jax.Array) -> jax.Array:
        change = self.denoiser(t, y) - image
        return change - self.known(change)


def restore(
    denoiser: Denoiser,
    sde: SDE,
    guide: ArrayLike,
    keys: jax.Array,
    known: Projection,
    *,
    strength: ArrayLike = 1.0,
    sampler: Sampler | None = None,
    on_step: OnStep | None = None,
) -> jax.Array:
    """Find the unknown part of an image (eq. 19): colourisation, super-resolution.

    **Arguments:**

    - `denoiser`, `sde`, `keys`, `sampler`, `on_step`: as in `sdedit`; one denoiser call per step.
    - `guide`: (b, h, w, c) or (1, h, w, c) in [-1, 1], any image that has the known part: a grey image on all channels,
      a small one enlarged so that its blocks keep their means (by repeating its pixels).
    - `known`: `Luminance()`, `BlockMeans(factor)`, or a projection of your own.
    - `strength`: in (0, 1]; at 1 the unknown part is made of noise, below it is edited from the guide's.

    **Returns:** (b, h, w, c), whose known part is the guide's. For pixels that are missing use `sdedit` with a mask.

    **Raises:** `ValueError` for an argument outside its range or of the wrong shape.
    """
    shape = jnp.shape(guide)
    if len(shape) != 4:
        raise ValueError(f"guide shape={shape}: must be (b, h, w, c)")
    known.check(shape)
    how = {"strength": strength, "sampler": sampler, "on_step": on_step}
    return edit(_Restore(known, denoiser), sde, guide, keys, **how, grid="edm")
