"""Langevin steps before the solver's (Song et al. 2021, algorithms 4 and 5), against Gaussian data's closed forms."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.sde.rectified_flow import RectifiedFlow
from sdejax.sde.variance_exploding import VESDE
from sdejax.sde.variance_preserving import VPSDE
from sdejax.solvers.exponential import Exponential
from sdejax.solvers.langevin import Langevin
from sdejax.solvers.sampler import Sampler

M, S, G = -0.3, 0.5, 0.8
SHAPE = (8, 8, 3)
KEYS = sj.keys(range(128))
GUIDE = jnp.full((1, *SHAPE), G)


@pytest.mark.parametrize("steps", [1, 6, 80])
def test_langevin_steps_at_one_time_follow_their_linear_equation(sde, steps):
    """With D = m + a (x / alpha - m), a = s^2 alpha^2 / (s^2 alpha^2 + sigma^2), a step is x' = r x + ... + noise,

    r = c + (1 - c) a, noise of variance sigma^2 (1 - c^2). One solver step then returns D. 4.5 standard errors of 24576
    values. A step of snr^2 in place of 2 snr^2 is off by 0.1 in the mean of 6; noise of variance 1 - c leaves half the
    variance; one noise for all steps leaves a variance several times as large.
    """
    snr, strength = 0.3, 0.4
    alpha, sigma = float(sde.alpha(strength)), float(sde.sigma(strength))
    c = math.exp(-2.0 * snr**2)
    a = (S * alpha) ** 2 / ((S * alpha) ** 2 + sigma**2)
    r = c + (1.0 - c) * a
    mean, variance = G - M, (sigma / alpha) ** 2
    for _ in range(steps):
        mean, variance = r * mean, r**2 * variance + (sigma / alpha) ** 2 * (1.0 - c**2)
    mean, variance = M + a * mean, a**2 * variance
    sampler = Sampler(1, "log_snr", solver=Exponential(2, Langevin(snr, steps)))
    result = sj.sdedit(sj.GaussianDenoiser(sde, M, S), sde, GUIDE, KEYS, strength=strength, sampler=sampler)
    result = np.asarray(result, np.float64)
    assert abs(result.mean() - mean) < 4.5 * math.sqrt(variance / result.size) + 1e-6
    assert abs(result.var() / variance - 1.0) < 4.5 * math.sqrt(2.0 / result.size) + 1e-4


@pytest.mark.parametrize("sde", [VESDE(), RectifiedFlow()], ids=["VE", "RF"])
def test_steps_and_corrections_take_turns_at_the_solvers_times(sde):
    """On Gaussian data a whole run is linear, so its variance is a recursion: correct at t, then eq. 9 with lam = 0.

    4.5 standard errors, and float32. Corrections after the step, at the step's end, or at the first time alone, end
    with a variance 5% off; those of the noise's own variance sigma^2 at another time by more.
    """
    snr, corrections, strength = 0.4, 2, 0.9
    sampler = Sampler(6, "log_snr", Exponential(1, Langevin(snr, corrections)), stochasticity=0.0)
    times = np.asarray(sampler.times(sde, jnp.float32(strength)))
    alpha, sigma = (np.asarray(f(times), np.float64) for f in (sde.alpha, sde.sigma))
    a = (S * alpha) ** 2 / ((S * alpha) ** 2 + sigma**2)
    c = math.exp(-2.0 * snr**2)
    mean, variance = alpha[0] * (G - M), sigma[0] ** 2
    for i in range(6):
        for _ in range(corrections):
            r = c + (1.0 - c) * a[i]
            mean, variance = r * mean, r**2 * variance + sigma[i] ** 2 * (1.0 - c**2)
        after = (0.0, 1.0) if i == 5 else (sigma[i + 1], alpha[i + 1])
        r = after[0] / sigma[i] + (after[1] - after[0] / sigma[i] * alpha[i]) * a[i] / alpha[i]
        mean, variance = r * mean, r**2 * variance
    result = sj.sdedit(sj.GaussianDenoiser(sde, M, S), sde, GUIDE, KEYS, strength=strength, sampler=sampler)
    result = np.asarray(result, np.float64)
    assert abs(result.mean() - M - mean) < 4.5 * math.sqrt(variance / result.size) + 1e-4
    assert abs(result.var() / variance - 1.0) < 4.5 * math.sqrt(2.0 / result.size) + 1e-3


@pytest.mark.parametrize("sde", [VESDE(), RectifiedFlow()], ids=["VE", "RF"])
def test_the_noise_of_the_corrector_cancels_between_equal_texts(sde):
    image = jax.random.uniform(jax.random.key(0), (1, *SHAPE), minval=-1.0)
    denoiser = sj.MixtureDenoiser(sde, jnp.ones(3), jax.random.uniform(jax.random.key(1), (3, *SHAPE)), 0.4)
    sampler = Sampler(5, "log_snr", solver=Exponential(2, Langevin(0.3, 2)))
    same = sj.sync_sde(denoiser, denoiser, sde, image, KEYS[:3], sampler=sampler)
    # Exact; a noise for each of the two states leaves 0.1.
    np.testing.assert_allclose(same, np.broadcast_to(image, same.shape), atol=1e-6)


def test_an_image_is_its_seed_and_a_masked_pixel_is_kept():
    sde = VPSDE()
    denoiser = sj.MixtureDenoiser(sde, jnp.ones(3), jax.random.uniform(jax.random.key(1), (3, *SHAPE)), 0.4)
    sampler, inside = Sampler(5, "log_snr", solver=Exponential(2, Langevin())), np.zeros(SHAPE[:2], bool)
    inside[2:5, 3:7] = True
    batch = np.asarray(sj.sdedit(denoiser, sde, GUIDE, KEYS[:4], sampler=sampler, mask=inside))
    alone = np.asarray(sj.sdedit(denoiser, sde, GUIDE, KEYS[2:3], sampler=sampler, mask=inside))
    np.testing.assert_array_equal(batch[2], alone[0])
    np.testing.assert_array_equal(batch[:, ~inside], np.broadcast_to(GUIDE, batch.shape)[:, ~inside])
    assert np.abs(batch[0] - batch[1])[inside].max() > 0.05


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Langevin(0.0), "snr=0.0: must be above 0"),
        (lambda: Langevin(float("nan")), "snr=nan: must be"),
        (lambda: Langevin(0.1, 0), "corrector steps=0: must be a whole number of at least 1"),
    ],
)
def test_what_is_outside_its_range_is_refused(make, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        make()
