"""Classifier-free guidance."""

import dataclasses

import jax
from jax.typing import ArrayLike

from sdejax.denoiser.protocol import Denoiser
from sdejax.pytrees import pytree


@pytree
@dataclasses.dataclass(frozen=True)
class GuidedDenoiser:
    """Guidance: D = D_u + scale (D_c - D_u) (Ho and Salimans 2022). `scale` is a leaf: changing it compiles nothing."""

    conditional: Denoiser
    unconditional: Denoiser
    scale: ArrayLike

    def __call__(self, t: ArrayLike, x: jax.Array) -> jax.Array:
        """Two denoiser calls."""
        base = self.unconditional(t, x)
        return base + self.scale * (self.conditional(t, x) - base)
