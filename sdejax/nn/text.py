"""Captions to tokens to vectors: a vocabulary of whole words and a small encoder over them."""

import dataclasses
import difflib
import functools
import re

import jax
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from sdejax.nn.layers import Dense

PAD, EMPTY, UNKNOWN = 0, 1, 2
_FIRST_WORD = 3
_WORD = re.compile("[^\\W_]+(?:[.\u2019'&][^\\W_]+)*|#|\\*")


def words_of(caption: str) -> list[str]:
    """The lower-case words of a caption, punctuation dropped.

    Hyphenated words are split: "ten-thirty" is read by a model that has only met "ten o'clock" and "two-thirty".
    """
    return _WORD.findall(caption.lower())


def _plain(word: str) -> str:
    """A word as it is looked up: typed and typographic apostrophes are the same."""
    return word.replace("\u2019", "'")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The words a model knows, in a fixed order, and the number of them that it reads of one caption."""

    words: tuple[str, ...]
    length: int

    @classmethod
    def of(cls, captions: list[str]) -> "Vocabulary":
        """The words of `captions`, sorted, and the length of the longest caption."""
        split = [words_of(caption) for caption in captions]
        words = sorted({word for caption in split for word in caption})
        return cls(tuple(words), max(1, *(len(caption) for caption in split)))

    @property
    def size(self) -> int:
        """How many tokens there are, the three special ones included."""
        return _FIRST_WORD + len(self.words)

    @functools.cached_property
    def _index(self) -> dict[str, int]:
        return {_plain(word): _FIRST_WORD + i for i, word in enumerate(self.words)}

    def encode(self, captions: list[str]) -> np.ndarray:
        """Captions to tokens (b, length) int32; an empty caption is the token EMPTY, the unconditional model."""
        index = self._index
        tokens = np.full((len(captions), self.length), PAD, np.int32)
        for row, caption in zip(tokens, captions, strict=True):
            ids = [index.get(_plain(word), UNKNOWN) for word in words_of(caption)][: self.length] or [EMPTY]
            row[: len(ids)] = ids
        return tokens

    def unknown(self, caption: str) -> dict[str, list[str]]:
        """The words of `caption` that the model does not know, each with the nearest that it knows."""
        known = self._index
        return {
            word: difflib.get_close_matches(word, self.words, n=3, cutoff=0.5)
            for word in words_of(caption)
            if _plain(word) not in known
        }


class TextEncoder(nnx.Module):
    """Tokens to one vector per word and one per caption.

    Word and position embeddings, one residual self-attention over the words (so that "dark" can learn whose it
    is), then a mean over the words for the whole.
    """

    def __init__(self, vocabulary: int, length: int, width: int, heads: int, dtype: DTypeLike, rngs: nnx.Rngs):
        embedding_init = nnx.initializers.normal(1.0)
        self.heads = heads
        self.dtype = dtype
        self.words = nnx.Embed(vocabulary, width, embedding_init=embedding_init, rngs=rngs)
        self.positions = nnx.Param(0.1 * jax.random.normal(rngs.params(), (length, width)))
        self.norm0 = nnx.LayerNorm(width, rngs=rngs)
        self.qkv = Dense(width, 3 * width, dtype, rngs)
        self.mix = Dense(width, width, dtype, rngs, zero=True)
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.hidden = Dense(width, 2 * width, dtype, rngs)
        self.out = Dense(2 * width, width, dtype, rngs, zero=True)
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """tokens (b, length) -> word vectors (b, length, width), caption vector (b, width), mask (b, length)."""
        mask = tokens != PAD
        b, length = tokens.shape
        x = self.words(tokens) + self.positions[...]
        qkv = self.qkv(self.norm0(x)).reshape(b, length, 3, self.heads, -1)
        mixed = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], mask=mask[:, None, None, :])
        x = x + self.mix(mixed.reshape(b, length, -1))
        x = x + self.out(nnx.swish(self.hidden(self.norm1(x))))
        x = self.norm2(x)
        weight = mask[:, :, None].astype(x.dtype)
        pooled = (x * weight).sum(1) / weight.sum(1)
        return x.astype(self.dtype), pooled.astype(self.dtype), mask
