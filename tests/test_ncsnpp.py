"""The score network as a whole."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sdejax.model import Model, Parametrisation
from sdejax.nn.architecture import NCSNppConfig
from sdejax.nn.ncsnpp import structure
from sdejax.sde import VPSDE
from tests.tiny import CONFIG, VOCABULARY, tiny_model

VARIANTS = {
    "DDPM++": {},
    "NCSN++ on a wide image, unconditional": {"fir": True, "embedding": "fourier", "shape": (8, 16, 3), "words": 0},
    "patches and plain resampling": {"patch": 2, "shape": (16, 16, 3), "resblock": "ddpm", "resample_with_conv": False},
}


def _network(config, seed=0):
    model = tiny_model(config, seed=seed)
    return jax.jit(nnx.merge(model.graph, model.params).__call__)


def _inputs(config, batch=2):
    tokens = jnp.asarray(VOCABULARY.encode(["red heart", "blue heart"][:batch])) if config.words else None
    return jax.random.normal(jax.random.key(1), (batch, *config.shape)), jnp.linspace(-1.0, 2.0, batch), tokens


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_do_not_mix_and_every_condition_reaches_the_output(variant):
    # Rejects statistics over the batch, an embedding that is dropped on the way, and a text that is not read.
    config = dataclasses.replace(CONFIG, **VARIANTS[variant])
    network = _network(config)
    x, label, tokens = _inputs(config)
    out = network(x, label, tokens)
    assert out.shape == x.shape
    assert out.dtype == jnp.float32
    other = network(x.at[1].add(1.0), label, tokens)
    np.testing.assert_allclose(out[0], other[0], atol=1e-5)
    assert jnp.abs(out[1] - other[1]).max() > 1e-2
    assert jnp.abs(out - network(x, label + 0.5, tokens)).max() > 1e-2
    if tokens is not None:
        assert jnp.abs(out - network(x, label, tokens[::-1])).max() > 1e-2


def test_a_fresh_network_is_zero():
    # The last layer starts at 0, so a fresh denoiser is its preconditioning alone.
    x, label, tokens = _inputs(CONFIG)
    model = Model.create(CONFIG, VPSDE(), Parametrisation())
    out = jax.jit(nnx.merge(model.graph, model.params).__call__)(x, label, tokens)
    np.testing.assert_array_equal(out, 0.0)


def test_names_read_from_the_tree():
    names = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(structure(CONFIG)[1])}
    assert "down.8x8.block0.conv0.kernel" in names
    assert "down.4x4.caption0.query.kernel" in names
    assert "middle.attention.out.bias" in names
    assert "up.4x4.upsample.conv1.kernel" in names
    assert not any("attention" in name for name in names if name.startswith("down.8x8"))


def test_bfloat16_stays_near_float32():
    # 2% in relative norm. Rejects group statistics or a last layer in bfloat16.
    x, label, tokens = _inputs(CONFIG)
    configs = (CONFIG, dataclasses.replace(CONFIG, dtype="bfloat16"))
    models = [tiny_model(config, scale=0.05) for config in configs]
    out32, out16 = (jax.jit(nnx.merge(m.graph, m.params).__call__)(x, label, tokens) for m in models)
    assert out16.dtype == jnp.float32
    assert jnp.linalg.norm(out16 - out32) < 0.02 * jnp.linalg.norm(out32)


def test_dropout_takes_a_key_and_rests_without_one():
    config = dataclasses.replace(CONFIG, dropout=0.5)
    network = _network(config)
    x, label, tokens = _inputs(config)
    a, b, c = (network(x, label, tokens, jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert jnp.abs(a - c).max() > 1e-2
    np.testing.assert_array_equal(network(x, label, tokens), network(x, label, tokens))


def test_a_size_that_the_levels_do_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"shape=\(12, 10, 3\): height and width must be multiples of 4"):
        NCSNppConfig(shape=(12, 10, 3), multipliers=(1, 2, 2))
