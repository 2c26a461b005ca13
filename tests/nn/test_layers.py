"""The layers against their definitions in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sdejax.batch_invariance import batch_invariant
from sdejax.nn.attention import Attention
from sdejax.nn.embedding import FourierEmbedding, PositionalEmbedding
from sdejax.nn.layers import Conv, Dense, GroupNorm, dropout
from sdejax.nn.resample import ConvDownsample, ConvUpsample, downsample, from_patches, to_patches, upsample
from sdejax.runtime.jit import jit


@pytest.mark.parametrize("channels", [8, 12, 144])
def test_group_norm_is_the_textbook_one(channels):
    # 2e-5: rounding. Rejects statistics per channel or per image, a missing epsilon, and groups that interleave.
    x = 3.0 + 2.0 * jax.random.normal(jax.random.key(0), (2, 5, 6, channels))
    norm = GroupNorm(channels, jnp.float32)
    norm.scale[...] = jax.random.normal(jax.random.key(1), (channels,))
    norm.bias[...] = jax.random.normal(jax.random.key(2), (channels,))
    grouped = np.asarray(x, np.float64).reshape(2, 30, norm.groups, -1)
    mean, variance = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    expected = ((grouped - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape)
    expected = expected * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
    np.testing.assert_allclose(norm(x), expected, atol=2e-5, rtol=2e-5)
    np.testing.assert_allclose(norm.swished(x), expected / (1.0 + np.exp(-expected)), atol=2e-5, rtol=2e-5)


def test_group_norm_of_a_constant_is_its_bias():
    # Rejects a variance without a clamp: in one pass it may round below 0, and its root is NaN.
    norm = GroupNorm(8, jnp.float32)
    np.testing.assert_allclose(norm(jnp.full((1, 4, 4, 8), 1e3)), 0.0, atol=1.0)
    assert np.isfinite(norm(jnp.full((1, 4, 4, 8), 1e3))).all()


def _direct(x, kernel, up):
    """Zero insertion (up), convolution with the separable kernel, decimation (down), in numpy."""
    x = np.asarray(x, np.float64)
    for axis in (1, 2):
        x = np.moveaxis(x, axis, -1)
        n = x.shape[-1]
        if up:
            wide = np.zeros((*x.shape[:-1], 2 * n + 4))
            wide[..., 2 : 2 * n + 2 : 2] = x
            y = sum(k * wide[..., j : j + 2 * n] for j, k in enumerate(2.0 * np.asarray(kernel)))
        else:
            wide = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(1, 2)])
            y = sum(k * wide[..., j : j + n : 2] for j, k in enumerate(kernel))
        x = np.moveaxis(y, -1, axis)
    return x


def test_fir_resampling_is_the_direct_convolution():
    # Rejects a shift by one pixel, a gain of 2 or 1/2, and a wrapped or repeated border.
    x = jax.random.normal(jax.random.key(0), (2, 6, 8, 3))
    kernel = np.array([1.0, 3.0, 3.0, 1.0]) / 8.0
    np.testing.assert_allclose(downsample(x, True), _direct(x, kernel, up=False), atol=1e-6)
    np.testing.assert_allclose(upsample(x, True), _direct(x, kernel, up=True), atol=1e-6)


def test_plain_resampling_is_means_and_repeats():
    x = jax.random.normal(jax.random.key(0), (1, 4, 6, 2))
    np.testing.assert_allclose(downsample(upsample(x, False), False), x, atol=1e-6)
    np.testing.assert_allclose(downsample(x, False).mean(), x.mean(), atol=1e-6)
    np.testing.assert_array_equal(upsample(x, False)[:, 1::2, 1::2], x)


def _convolved(x, kernel, stride=1):
    """A 3 x 3 convolution without padding, tap by tap."""
    h, w = (x.shape[1] - 3) // stride + 1, (x.shape[2] - 3) // stride + 1
    taps = ((i, j, x[:, i : i + stride * h : stride, j : j + stride * w : stride]) for i in range(3) for j in range(3))
    return sum(tap @ kernel[i, j] for i, j, tap in taps)


@pytest.mark.parametrize("fir", [False, True])
def test_resampling_convolutions_are_filter_then_convolve(fir):
    """Filter, then a strided convolution; upsample, then a convolution. The expected image has a margin of zeros.

    Rejects a shift by a pixel, a filter after the stride, a gain, and a border that repeats or wraps.
    """
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 6, 8, 3)), np.float64)
    small, wide = ConvDownsample(3, 4, fir, jnp.float32, nnx.Rngs(0)), ConvUpsample(3, 4, fir, jnp.float32, nnx.Rngs(1))
    margin = np.pad(x, [(0, 0), (8, 8), (8, 8), (0, 0)])  # wider than any filter and convolution
    smooth = margin
    if fir:
        for axis in (1, 2):
            smooth = sum(k * np.roll(smooth, 2 - j, axis) for j, k in enumerate([0.125, 0.375, 0.375, 0.125]))
    # The filter's centre lies between its pixels 1 and 2; DDPM's strided kernel starts on the pixel itself.
    first = 7 if fir else 8
    expected = _convolved(smooth, np.asarray(small.conv.kernel[...], np.float64), 2)[:, first // 2 :, first // 2 :]
    if fir:
        expected = _convolved(smooth[:, 8:, 8:], np.asarray(small.conv.kernel[...], np.float64), 2)
    np.testing.assert_allclose(small(jnp.asarray(x, jnp.float32)), expected[:, :3, :4], atol=2e-5)
    large = _direct(margin, np.array([1.0, 3.0, 3.0, 1.0]) / 8.0, up=True) if fir else margin.repeat(2, 1).repeat(2, 2)
    expected = _convolved(large, np.asarray(wide.conv.kernel[...], np.float64))[:, 15:27, 15:31]
    np.testing.assert_allclose(wide(jnp.asarray(x, jnp.float32)), expected, atol=2e-5)


def test_patches_are_neighbours():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    patches = to_patches(x, 2)
    np.testing.assert_array_equal(patches[1, 1, 2].reshape(2, 2, 3), x[1, 2:4, 4:6])
    np.testing.assert_array_equal(from_patches(patches, 2), x)


def test_attention_is_softmax_of_scaled_products():
    # Rejects a missing 1/sqrt(d), heads split along the wrong axis, and a mask of the wrong sign.
    b, words, c, heads = 2, 5, 8, 2
    layer = Attention(c, heads, jnp.float32, nnx.Rngs(0), text=6)
    layer.out.kernel[...] = jnp.eye(c)
    x = jax.random.normal(jax.random.key(0), (b, 2, 3, c))
    text = jax.random.normal(jax.random.key(1), (b, words, 6))
    mask = jnp.array([[True, True, False, False, False], [True] * 5])
    query = layer.query(layer.norm(x).reshape(b, 6, c))
    key, value = layer.key(text), layer.value(text)
    expected = np.zeros((b, 6, c))
    for i in range(b):
        for h in range(heads):
            part = slice(h * c // heads, (h + 1) * c // heads)
            logits = np.asarray(query[i, :, part] @ key[i, :, part].T) / np.sqrt(c / heads)
            logits = np.where(np.asarray(mask[i]), logits, -np.inf)
            weights = np.exp(logits - logits.max(1, keepdims=True))
            expected[i, :, part] = weights / weights.sum(1, keepdims=True) @ np.asarray(value[i, :, part])
    np.testing.assert_allclose(layer(x, text, mask), x + expected.reshape(x.shape), atol=1e-5)


def test_embeddings_of_neighbouring_labels_differ_and_have_a_bounded_norm():
    # Rejects degrees for radians, and frequencies so low that times 1/1000 apart have nearly the same embedding.
    labels = jnp.array([0.0, 1.0, 2.0, 998.0, 999.0])
    table = PositionalEmbedding(32)(labels)
    np.testing.assert_allclose(table[0], jnp.concatenate([jnp.zeros(16), jnp.ones(16)]), atol=1e-6)
    assert float(jnp.linalg.norm(table[3] - table[4])) > 0.5
    fourier = FourierEmbedding(64, 16.0, nnx.Rngs(0))
    np.testing.assert_allclose(jnp.square(fourier(labels)).sum(1), 32.0, rtol=1e-4)
    np.testing.assert_allclose(fourier(jnp.zeros(1))[0, 32:], 1.0)


def test_dropout_keeps_the_mean_and_needs_a_key():
    # 5 standard errors. Rejects dropping `1 - rate`, and a missing rescale.
    x = jnp.ones((200, 200))
    dropped = dropout(x, 0.3, jax.random.key(0))
    assert abs(float((dropped == 0).mean()) - 0.3) < 5 * np.sqrt(0.21 / x.size)
    assert abs(float(dropped.mean()) - 1.0) < 5 * np.sqrt(0.3 / 0.7 / x.size)
    assert dropout(x, 0.3, None) is x


@pytest.mark.parametrize(
    ("layer", "shape", "few"),
    [
        (Dense(128, 384, jnp.float32, nnx.Rngs(0)), (64, 128), (1, 2, 13, 40)),
        (Dense(256, 256, jnp.float32, nnx.Rngs(0)), (200, 256), (1, 7, 50)),
        (Dense(512, 96, jnp.float32, nnx.Rngs(0)), (64, 512), (1, 2, 40)),
        (Conv(96, 128, 3, jnp.float32, nnx.Rngs(0)), (16, 4, 4, 96), (1, 2, 3)),
        (Conv(256, 96, 3, jnp.float32, nnx.Rngs(0)), (16, 4, 4, 256), (1, 2, 3)),
    ],
)
def test_few_rows_have_the_bits_that_they_have_among_many(layer, shape, few):
    # Rejects a product without padding, whose sums the CPU's library adds up in another order: off by 1e-6.
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))
    run = jit(layer.__call__)
    with batch_invariant():
        for n in few:
            np.testing.assert_array_equal(run(x[:n]), run(x)[:n])
    # Rejects padding in programs that are not asked to be batch-invariant.
    assert "pad" not in str(jax.make_jaxpr(layer)(x[:1])).replace("padding", "")
