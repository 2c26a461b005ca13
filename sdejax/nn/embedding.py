"""Embeddings of a scalar: sinusoids and random Fourier features."""

import jax
import jax.numpy as jnp
from flax import nnx


class PositionalEmbedding(nnx.Module):
    """Sinusoids of a scalar at geometric frequencies from 1 to about 1e-4; label (b,) -> (b, width).

    DDPM's frequencies end at 1e-4 itself (`shift` 1); `shift` 0 ends one ratio before it, as in Vaswani et al. 2017.
    """

    def __init__(self, width: int, shift: int = 1):
        self.width, self.shift = width, shift

    def __call__(self, label: jax.Array) -> jax.Array:
        half = self.width // 2
        frequencies = jnp.exp(-jnp.log(1e4) * jnp.arange(half, dtype=jnp.float32) / (half - self.shift))
        phase = label[:, None] * frequencies
        return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=1)


class Frequencies(nnx.Variable):
    """What belongs to a network and is not trained."""


class FourierEmbedding(nnx.Module):
    """Random Fourier features of a scalar (Tancik et al. 2020), as in NCSN++; label (b,) -> (b, width).

    The frequencies are drawn once and are not trained.
    """

    def __init__(self, width: int, scale: float, rngs: nnx.Rngs):
        self.frequencies = Frequencies(jax.random.normal(rngs.params(), (width // 2,)) * scale)

    def __call__(self, label: jax.Array) -> jax.Array:
        frequencies = jax.lax.stop_gradient(self.frequencies[...])
        phase = label[:, None] * frequencies * (2.0 * jnp.pi)
        return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=1)
