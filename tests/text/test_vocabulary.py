"""The vocabulary, and the encoder of its tokens."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from sdejax.nn.text_encoders.words import TextEncoder
from sdejax.text.vocabulary import EMPTY, PAD, UNKNOWN, Vocabulary, words_of
from tests.tiny import VOCABULARY


def test_words_of_a_unicode_name():
    assert words_of("Woman: medium-dark skin tone") == ["woman", "medium", "dark", "skin", "tone"]
    assert words_of("keycap: #") == ["keycap", "#"]
    assert words_of("flag: St. Kitts & Nevis") == ["flag", "st", "kitts", "nevis"]


def test_each_known_word_has_its_own_token():
    tokens = [VOCABULARY.encode([word])[0, 0] for word in VOCABULARY.words]
    assert len(set(tokens)) == len(VOCABULARY.words)
    assert min(tokens) > max(PAD, EMPTY, UNKNOWN)
    assert max(tokens) == VOCABULARY.size - 1


def test_empty_unknown_and_long_captions():
    tokens = VOCABULARY.encode(["", "zebra heart", "red " * 50])
    assert list(tokens[0][:2]) == [EMPTY, PAD]
    assert tokens[1, 0] == UNKNOWN
    assert tokens[1, 1] == VOCABULARY.encode(["heart"])[0, 0]
    assert (tokens[2] == tokens[2, 0]).all()


def test_both_apostrophes_are_one_word():
    clock = Vocabulary.of(["three o’clock"])  # noqa: RUF001
    np.testing.assert_array_equal(clock.encode(["three o'clock"]), clock.encode(["three o’clock"]))  # noqa: RUF001
    assert not clock.unknown("three o'clock")


def test_the_nearest_words_are_named():
    assert VOCABULARY.unknown("read hart") == {"read": ["red"], "hart": ["heart"]}
    assert VOCABULARY.unknown("red heart") == {}


def test_padding_changes_nothing():
    # Rejects a mean over the padding and an attention without a mask. With either, the result depends on `length`.
    encoder = TextEncoder(VOCABULARY.size, 8, 8, 2, np.float32, nnx.Rngs(0))
    encoder.mix.kernel[...] = np.eye(8)
    tokens = jnp.array([[5, 6, *[PAD] * 6]])
    words, pooled, _ = encoder(tokens)
    encoder.positions[...] = encoder.positions[...].at[2:].set(100.0)
    words_again, pooled_again, mask = encoder(tokens)
    np.testing.assert_array_equal(mask, [[True] * 2 + [False] * 6])
    np.testing.assert_allclose(words[:, :2], words_again[:, :2], atol=1e-6)
    np.testing.assert_allclose(pooled, pooled_again, atol=1e-6)


def test_the_order_of_words_matters():
    # Rejects a bag of words: the output must depend on the positions.
    encoder = TextEncoder(VOCABULARY.size, 4, 8, 2, np.float32, nnx.Rngs(0))
    _, pooled, _ = encoder(jnp.array([[5, 6, PAD, PAD], [6, 5, PAD, PAD]]))
    assert np.abs(pooled[0] - pooled[1]).max() > 1e-3
