"""Conditioners: prompts to the arrays that a network reads beside x and the label.

Nothing, a class label, or the words of a `Vocabulary` (`sdejax.text.vocabulary`, which is a conditioner as it is).
"""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Conditioner(Protocol):
    """What turns prompts into arrays: frozen and hashable."""

    @property
    def prompted(self) -> bool:
        """Whether there are prompts at all."""
        ...

    def encode(self, prompts: Sequence[str]) -> Any:
        """What the network reads for n prompts: a pytree of numpy arrays (n, ...), or None.

        "" is the unconditional model. By numpy, so that a new prompt compiles nothing.

        **Raises:** `ValueError` for a prompt that the model does not take.
        """
        ...

    def unknown(self, prompt: str) -> dict[str, list[str]]:
        """The words of a prompt that the model never saw, each with the nearest that it knows."""
        ...

    def dropped(self, key: jax.Array, encoded: Any, prompts: float, words: float) -> Any:
        """Training's conditions: a share `prompts` of them made unconditional, and a share of the `words` hidden.

        `encoded` is a traced (b, ...) batch of what `encode` returns.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Unconditional:
    """A model without prompts."""

    @property
    def prompted(self) -> bool:
        """False."""
        return False

    def encode(self, prompts: Sequence[str]) -> None:
        """None. **Raises:** `ValueError` for a prompt that is not empty."""
        for prompt in prompts:
            if prompt:
                raise ValueError(f"prompt={prompt!r}: this model was trained without text and takes no prompt")

    def unknown(self, prompt: str) -> dict[str, list[str]]:
        """None."""
        return {}

    def dropped(self, key: jax.Array, encoded: None, prompts: float, words: float) -> None:
        """None."""


@dataclasses.dataclass(frozen=True)
class ClassLabels:
    """A model that is told one of `names`. A prompt is a name, or a class's number as text.

    `null` says whether the network has one more class, the last, for no class: classifier-free guidance needs it.
    """

    names: tuple[str, ...]
    null: bool = True

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"names: {len(self.names)} classes; must be at least one, and none of them twice")

    @property
    def prompted(self) -> bool:
        """True."""
        return True

    @property
    def size(self) -> int:
        """How many classes the network knows, that of no class included."""
        return len(self.names) + self.null

    def encode(self, prompts: Sequence[str]) -> np.ndarray:
        """Class numbers (n,) int32. **Raises:** `ValueError` for a prompt that names no class."""
        return np.asarray([self._number(prompt) for prompt in prompts], np.int32)

    def _number(self, prompt: str) -> int:
        if prompt in self.names:
            return self.names.index(prompt)
        if not prompt and self.null:
            return len(self.names)
        if prompt.isdecimal() and int(prompt) < len(self.names):
            return int(prompt)
        near = difflib.get_close_matches(prompt, self.names, n=3, cutoff=0.5) or list(self.names[:3])
        raise ValueError(f"prompt={prompt!r}: must be one of the model's {len(self.names)} classes, such as {near}")

    def unknown(self, prompt: str) -> dict[str, list[str]]:
        """None: a class that the model does not know is an error."""
        return {}

    def dropped(self, key: jax.Array, encoded: jax.Array, prompts: float, words: float) -> jax.Array:
        """A share of the classes becomes that of no class, if there is one."""
        if not self.null:
            return encoded
        hidden = jax.random.bernoulli(key, prompts, encoded.shape)
        return jnp.where(hidden, len(self.names), encoded)
