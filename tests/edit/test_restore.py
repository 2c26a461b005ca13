"""Eq. 19: the known part is kept, and the unknown part is the model's."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import sdejax as sj
from sdejax.sde.rectified_flow import RectifiedFlow
from sdejax.sde.variance_exploding import VESDE
from sdejax.sde.variance_preserving import VPSDE
from sdejax.solvers.sampler import Sampler

M, S = 0.2, 0.5
SHAPE = (8, 8, 3)
KEYS = sj.keys(range(128))
GUIDE = jax.random.uniform(jax.random.key(0), (1, *SHAPE), minval=-1.0)
PARTS = {"luminance": sj.Luminance(), "blocks": sj.BlockMeans(4)}


@pytest.mark.parametrize("sde", [VESDE(), RectifiedFlow()], ids=["VE", "RF"])
@pytest.mark.parametrize("part", PARTS)
def test_what_is_known_is_kept_whatever_the_model_wants(sde, part):
    """Float32. Known parts that are put in place at the end alone leave the rest as it is without them; see below."""
    known = PARTS[part]
    means = jax.random.uniform(jax.random.key(1), (3, *SHAPE), minval=-1.0)
    restored = sj.restore(
        sj.MixtureDenoiser(sde, jnp.ones(3), means, 0.2), sde, GUIDE, KEYS[:4], known, sampler=Sampler(20, "log_snr")
    )
    np.testing.assert_allclose(known(restored), np.broadcast_to(known(GUIDE), restored.shape), atol=2e-6)
    assert np.abs(restored - GUIDE).mean() > 0.1


@pytest.mark.parametrize("sde", [VESDE(), RectifiedFlow()], ids=["VE", "RF"])
@pytest.mark.parametrize("part", PARTS)
def test_for_independent_pixels_the_unknown_part_is_drawn_from_the_model(sde, part):
    """Of N(m, s^2) in every value the two parts are independent: the unknown one has the mean (1 - P) m.

    5.5 standard errors of 192 values, and the error of 60 steps. A part that is projected on the known one, or whose
    noise is, has no variance; a guide that is not forgotten at strength 1 moves the means by 0.3.
    """
    known = PARTS[part]
    mean = M * (1.0 + jnp.arange(3.0))
    restored = sj.restore(sj.GaussianDenoiser(sde, mean, S), sde, GUIDE, KEYS, known, sampler=Sampler(60, "log_snr"))
    unknown = np.asarray(restored - known(restored), np.float64)
    whole = jnp.broadcast_to(mean, (1, *SHAPE))
    dimensions = {"luminance": 2 / 3, "blocks": 15 / 16}[part]
    error = S / np.sqrt(len(KEYS))
    assert np.abs(unknown.mean(0) - (whole - known(whole))[0]).max() < 5.5 * error + 0.01
    assert abs(np.square(unknown - unknown.mean(0)).mean() / (S**2 * dimensions) - 1.0) < 0.03


def test_the_parts_are_what_pillow_makes_of_an_image():
    """Its "L" to one of 255 levels, its box reduction to rounding; a mean over another axis or other weights do not."""
    pixels = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    image = jnp.asarray(pixels, jnp.float32)[None]
    grey = sj.Luminance()(image) @ jnp.asarray(sj.Luminance().weights)
    assert np.abs(grey[0] - np.asarray(Image.fromarray(pixels).convert("L"), np.float32)).max() <= 1.0
    small = np.asarray(Image.fromarray(pixels).reduce(4), np.float32)
    assert np.abs(sj.BlockMeans(4)(image)[0, ::4, ::4] - small).max() <= 0.51
    for part in PARTS.values():  # a projection
        np.testing.assert_allclose(part(part(image)), part(image), rtol=1e-5)


@pytest.mark.parametrize(
    ("known", "shape", "said"),
    [
        (sj.BlockMeans(3), (1, 8, 8, 3), "factor=3: must divide the image's sides, 8 and 8"),
        (sj.Luminance(), (1, 8, 8, 1), "images of 1 channels have none"),
        (sj.Luminance(), (8, 8, 3), "guide shape=(8, 8, 3)"),
    ],
)
def test_an_image_without_that_part_is_refused(known, shape, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        sj.restore(sj.GaussianDenoiser(VPSDE()), VPSDE(), jnp.zeros(shape), KEYS[:1], known)
    with pytest.raises(ValueError, match="factor=1"):
        sj.BlockMeans(1)
