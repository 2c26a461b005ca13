"""Captions to tokens: a vocabulary of whole words."""

import dataclasses
import difflib
import functools
import re

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

    @property
    def size(self) -> int:
        """The number of tokens, including the three special ones."""
        return _FIRST_WORD + len(self.words)

    @functools.cached_property
    def _index(self) -> dict[str, int]:
        return {_plain(word): _FIRST_WORD + i for i, word in enumerate(self.words)}

    def encode(self, captions: list[str]) -> np.ndarray:
        """Convert captions to tokens (b, length), int32.

        An empty caption becomes the token EMPTY, which selects the unconditional model.
        """
        index = self._index
        tokens = np.full((len(captions), self.length), PAD, np.int32)
        for row, caption in zip(tokens, captions, strict=True):
            ids = [index.get(_plain(word), UNKNOWN) for word in words_of(caption)][: self.length] or [EMPTY]
            row[: len(ids)] = ids
        return tokens

    def unknown(self, caption: str) -> dict[str, list[str]]:
        """List the words of `caption` that the model does not know, each with the most similar words that it knows."""
        known = self._index
        return {
            word: difflib.get_close_matches(word, self.words, n=3, cutoff=0.5)
            for word in words_of(caption)
            if _plain(word) not in known
        }
