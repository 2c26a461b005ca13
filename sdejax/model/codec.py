"""Codecs: data to the state that a process acts on, and back."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


class Codec(Protocol):
    """What turns data into state and back. Shapes are of one image, without the batch."""

    def encode(self, image: ArrayLike) -> jax.Array:
        """The state (b, *state_shape) of images (b, h, w, c) in [-1, 1]."""
        ...

    def decode(self, state: jax.Array) -> jax.Array:
        """The images (b, h, w, c) of a state (b, *state_shape)."""
        ...

    def state_mask(self, mask: ArrayLike) -> jax.Array:
        """A mask of pixels (b, h, w, 1) in [0, 1] as one of the state."""
        ...


@dataclasses.dataclass(frozen=True)
class Identity:
    """The state is the image."""

    def encode(self, image: ArrayLike) -> jax.Array:
        """The image."""
        return jnp.asarray(image)

    def decode(self, state: jax.Array) -> jax.Array:
        """The state."""
        return state

    def state_mask(self, mask: ArrayLike) -> jax.Array:
        """The mask."""
        return jnp.asarray(mask)
