"""Embeddings of a scalar: sinusoids and random Fourier features."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class PositionalEmbedding(nnx.Module):
    """Sinusoids of a scalar at geometric frequencies from 1 to about 1e-4.

    With `shift` 1 the last frequency is 1e-4 itself, as in DDPM; with `shift` 0 it is one ratio above, as in Vaswani et
    al. 2017.
    """

    def __init__(self, width: int, shift: int = 1):
        self.width, self.shift = width, shift

    def __call__(self, label: Float[Array, " b"]) -> Float[Array, "b width"]:
        """The sines, then the cosines."""
        half = self.width // 2
        frequencies = jnp.exp(-jnp.log(1e4) * jnp.arange(half, dtype=jnp.float32) / (half - self.shift))
        phase = label[:, None] * frequencies
        return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=1)


class Frequencies(nnx.Variable):
    """Numbers that belong to a network and are not trained."""


class FourierEmbedding(nnx.Module):
    """Random Fourier features of a scalar (Tancik et al. 2020), as in NCSN++.

    The frequencies are drawn once, with standard deviation `scale`, and are not trained.
    """

    def __init__(self, width: int, scale: float, rngs: nnx.Rngs):
        self.frequencies = Frequencies(jax.random.normal(rngs.params(), (width // 2,)) * scale)

    def __call__(self, label: Float[Array, " b"]) -> Float[Array, "b width"]:
        """The sines, then the cosines."""
        frequencies = jax.lax.stop_gradient(self.frequencies[...])
        phase = label[:, None] * frequencies * (2.0 * jnp.pi)
        return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=1)
