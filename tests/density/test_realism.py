"""Eq. 20: denoising errors against their closed form, and realism as a share of the samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.density.realism import LEVELS, Realism, calibrate, denoising_errors
from sdejax.sde.variance_preserving import VPSDE
from sdejax.solvers.sampler import Sampler

M, S = -0.3, 0.5
SHAPE = (16, 16, 3)
KEYS = sj.keys(range(96))


def test_denoising_errors_are_those_of_gaussian_data(sde):
    """D - x = (tau (m - x) + s^2 sqrt(tau) e) / (s^2 + tau): its mean square is known for any image.

    4 draws of 768 values: 0.1 is 4 standard errors of the logarithm. A level in place of its square, an error in x_t's
    own scale, or a sum for the mean is off by 0.3 and more at one of the levels.
    """
    image = jax.random.uniform(jax.random.key(0), (1, *SHAPE), minval=-1.0)
    found = denoising_errors(sj.GaussianDenoiser(sde, M, S), sde, image, KEYS[:1])[0]
    tau = np.square(LEVELS)
    away = float(jnp.mean(jnp.square(image - M)))
    expected = np.log((tau**2 * away + S**4 * tau) / (S**2 + tau) ** 2)
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_realism_is_uniform_over_the_samples_and_knows_no_units():
    """Ranks, exactly; and any linear change of the errors leaves it, as a distance without the covariance would not."""
    random = np.random.default_rng(0)
    errors = random.normal(size=(64, 4)) @ random.normal(size=(4, 4))
    realism = Realism.of(errors)
    np.testing.assert_allclose(np.sort(realism(errors)), np.arange(1, 65) / 64)
    others = random.normal(size=(50, 4))
    change = random.normal(size=(4, 4))
    changed = Realism.of(errors @ change + 3.0)
    np.testing.assert_allclose(changed(others @ change + 3.0), realism(others), atol=1.1 / 64)
    assert realism(errors.mean(0)[None])[0] == 1.0
    assert realism(errors[:1] + 100.0)[0] == 0.0
    with pytest.raises(ValueError, match="samples=15: must be at least 16"):
        Realism.of(errors[:15])
    with pytest.raises(ValueError, match="one of the model's is not finite"):  # its realism was 1 for every image
        Realism.of(np.where(errors == errors[3, 1], np.nan, errors))


@pytest.mark.slow
def test_images_of_the_model_are_realistic_and_both_flat_and_rough_ones_are_not():
    """Of N(m, s^2): fresh samples are uniform in [0, 1]; the mean itself, and samples of twice the spread, are at 0.

    The mean is the most likely image of all: a likelihood would call it the most realistic. 96 fresh samples have a
    mean within 4 standard errors, 0.03, of a half.
    """
    sde = VPSDE()
    denoiser = sj.GaussianDenoiser(sde, M, S)
    realism = calibrate(denoiser, sde, KEYS, SHAPE, sampler=Sampler(40, "log_snr"))

    def of(images):
        return realism(np.asarray(denoising_errors(denoiser, sde, images, sj.keys(range(500, 500 + len(images))))))

    noise = jax.random.normal(jax.random.key(9), (96, *SHAPE))
    assert abs(of(M + S * noise).mean() - 0.5) < 0.12
    assert of(jnp.full((1, *SHAPE), M))[0] == 0.0
    assert of(M + 2.0 * S * noise[:4]).max() == 0.0
