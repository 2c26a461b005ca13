"""Conditioners turn prompts into the arrays that a network reads beside x and the label.

There are three: no prompts (`Unconditional`), a class (`ClassLabels`), and words (`sdejax.text.vocabulary.Vocabulary`).
"""

import dataclasses
import difflib
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Conditioner(Protocol):
    """Turns prompts into arrays. Frozen and hashable."""

    @property
    def prompted(self) -> bool:
        """Whether the model takes prompts."""
        ...

    def encode(self, prompts: Sequence[str]) -> Any:
        """What the network reads for n prompts: a pytree of numpy arrays (n, ...), or None.

        The prompt "" is the unconditional model. The arrays are numpy's, so that a new prompt compiles nothing.

        **Raises:** `ValueError` for a prompt that the model does not take.
        """
        ...

    def unknown(self, prompt: str) -> dict[str, list[str]]:
        """The words of a prompt that the model does not know, each with the most similar words that it knows."""
        ...

    def dropped(self, key: jax.Array, encoded: Any, prompts: float, words: float) -> Any:
        """Hide prompts and words at random, as training does for classifier-free guidance.

        **Arguments:**

        - `encoded`: what `encode` returned for a batch, as traced arrays (b, ...).
        - `prompts`: the share of the prompts that become unconditional.
        - `words`: the share of the words that become the unknown word, if prompts have words.
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
        """Nothing."""
        return {}

    def dropped(self, key: jax.Array, encoded: None, prompts: float, words: float) -> None:
        """None."""


@dataclasses.dataclass(frozen=True)
class ClassLabels:
    """A model that is told a class. A prompt is the name of a class, or its number from 0 on as text.

    If a number is also the name of a class, the name counts. `null` says whether the network has one more class, the
    last, which means no class: it is the prompt "", and classifier-free guidance needs it.

    **Raises:** `ValueError` if there is no name, or if a name is empty or occurs twice.
    """

    names: tuple[str, ...]
    null: bool = True

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("names=(): must have at least one class")
        seen: set[str] = set()
        for name in self.names:
            if not name or name in seen:
                raise ValueError(f"names: {name!r} {'occurs twice' if name else 'is not a name'}; each must be another")
            seen.add(name)

    def __repr__(self) -> str:
        return f"ClassLabels({len(self.names)} classes{', and no class' if self.null else ''})"

    @property
    def prompted(self) -> bool:
        """True."""
        return True

    @property
    def size(self) -> int:
        """How many classes the network has, the one for no class included."""
        return len(self.names) + self.null

    def encode(self, prompts: Sequence[str]) -> np.ndarray:
        """Class numbers (n,) int32. **Raises:** `ValueError` for a prompt that is not a class."""
        return np.asarray([self._number(prompt) for prompt in prompts], np.int32)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def _number(self, prompt: str) -> int:
        if prompt in self._numbers:
            return self._numbers[prompt]
        if not prompt and self.null:
            return len(self.names)
        if prompt.isdecimal() and int(prompt) < len(self.names):
            return int(prompt)
        near = difflib.get_close_matches(prompt, self.names, n=3, cutoff=0.5) or self.names[:3]
        told = f"one of the model's {len(self.names)} classes, such as {', '.join(map(repr, near))}"
        if not prompt:
            raise ValueError(f"prompt='': this model has no unconditional class; must be {told}")
        raise ValueError(f"prompt={prompt!r}: must be {told}")

    def unknown(self, prompt: str) -> dict[str, list[str]]:
        """Nothing: `encode` refuses a class that the model does not know."""
        return {}

    def dropped(self, key: jax.Array, encoded: jax.Array, prompts: float, words: float) -> jax.Array:
        """Replace a share `prompts` of the classes by no class, if the network has it."""
        if not self.null:
            return encoded
        hidden = jax.random.bernoulli(key, prompts, encoded.shape)
        return jnp.where(hidden, len(self.names), encoded)
