"""Captions to tokens: a vocabulary of whole words."""

import dataclasses
import difflib
import functools
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

PAD, EMPTY, UNKNOWN = 0, 1, 2
_FIRST_WORD = 3  # the token of the first word
_WORD = re.compile("[^\\W_]+(?:[.\u2019'&][^\\W_]+)*|#|\\*")


def words_of(caption: str) -> list[str]:
    """Split a caption into lower-case words, without punctuation.

    Hyphenated words are split. So a model that was trained on "ten o'clock" and "two-thirty" can read "ten-thirty".
    """
    return _WORD.findall(caption.lower())


def _plain(word: str) -> str:
    """The form in which a word is looked up: a typographic apostrophe becomes a typed one."""
    return word.replace("\u2019", "'")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The words that a model knows, in a fixed order. It reads the first `length` words of a caption."""

    words: tuple[str, ...]
    length: int

    @classmethod
    def of(cls, captions: list[str]) -> "Vocabulary":
        """Collect the words of `captions`, sorted. `length` is the number of words of the longest caption."""
        split = [words_of(caption) for caption in captions]
        words = sorted({word for caption in split for word in caption})
        return cls(tuple(words), max(1, *(len(caption) for caption in split)))

    def __repr__(self) -> str:
        return f"Vocabulary({len(self.words)} words, {self.length} of a prompt)"

    @property
    def prompted(self) -> bool:
        """True."""
        return True

    @property
    def size(self) -> int:
        """The number of tokens, including the three special ones."""
        return _FIRST_WORD + len(self.words)

    @functools.cached_property
    def _index(self) -> dict[str, int]:
        return {_plain(word): _FIRST_WORD + i for i, word in enumerate(self.words)}

    def encode(self, prompts: Sequence[str]) -> np.ndarray:
        """Convert prompts to tokens (n, length), int32.

        An empty prompt becomes the token EMPTY, which selects the unconditional model.
        """
        index = self._index
        tokens = np.full((len(prompts), self.length), PAD, np.int32)
        for row, prompt in zip(tokens, prompts, strict=True):
            ids = [index.get(_plain(word), UNKNOWN) for word in words_of(prompt)][: self.length] or [EMPTY]
            row[: len(ids)] = ids
        return tokens

    def unknown(self, prompt: str) -> dict[str, list[str]]:
        """List the words of `prompt` that the model does not know, each with the most similar words that it knows."""
        known = self._index
        return {
            word: difflib.get_close_matches(word, self.words, n=3, cutoff=0.5)
            for word in words_of(prompt)
            if _plain(word) not in known
        }

    def dropped(self, key: jax.Array, encoded: jax.Array, prompts: float, words: float) -> jax.Array:
        """Training's tokens (b, length): a share `prompts` of the captions, and `words` of the words, are hidden."""
        prompt_key, word_key = jax.random.split(key)
        hidden = jax.random.bernoulli(word_key, words, encoded.shape) & (encoded > UNKNOWN)
        tokens = jnp.where(hidden, UNKNOWN, encoded)
        empty = jnp.full_like(tokens, PAD).at[:, 0].set(EMPTY)
        dropped = jax.random.bernoulli(prompt_key, prompts, tokens.shape[:1])
        return jnp.where(dropped[:, None], empty, tokens)
