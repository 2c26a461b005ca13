"""Noise to images: the samples have the data's law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.sde.variance_preserving import VPSDE
from sdejax.solvers.exponential import Exponential
from sdejax.solvers.sampler import Sampler

KEYS = sj.keys(range(8192))
WEIGHTS, MEANS, STDS = np.array([0.3, 0.7]), np.array([-0.6, 0.5]), np.array([0.15, 0.25])


def distance(values, weights, means, stds):
    """Kolmogorov and Smirnov's: the largest difference of the sample's distribution function and the mixture's."""
    values = np.sort(np.asarray(values, np.float64).reshape(-1))
    exact = np.asarray(jax.scipy.stats.norm.cdf(values[:, None], means, stds)) @ weights
    rank = np.arange(values.size + 1) / values.size
    return max(np.max(rank[1:] - exact), np.max(exact - rank[:-1]))


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_samples_have_the_distribution_of_the_data(sde, lam):
    """A Gaussian and a mixture, by one compiled program: a Gaussian is a mixture of two alike."""
    for means, stds in ((MEANS, STDS), (np.full(2, 0.4), np.full(2, 0.3))):
        denoiser = sj.MixtureDenoiser(sde, WEIGHTS, means[:, None], stds)
        values = sj.sample(denoiser, sde, KEYS, (1,), sampler=Sampler(60, "log_snr", stochasticity=lam))
        # 1.63 / sqrt(n) is exceeded once in 100 times, and 0.004 are for the 60 steps. Noise of the wrong variance by
        # 10%, or weights off by 0.03, exceed it.
        assert distance(values, WEIGHTS, means, stds) < 1.63 / len(KEYS) ** 0.5 + 0.004


def test_first_order_samples_have_the_distribution_of_the_data_too():
    sde = VPSDE()
    sampler = Sampler(steps=100, solver=Exponential(1), grid="edm", stochasticity=0.5)
    values = sj.sample(sj.MixtureDenoiser(sde, WEIGHTS, MEANS[:, None], STDS), sde, KEYS, (1,), sampler=sampler)
    assert distance(values, WEIGHTS, MEANS, STDS) < 1.63 / len(KEYS) ** 0.5 + 0.01


def test_one_step_is_the_denoiser_of_pure_noise(sde):
    """The last step returns D itself; from one data image that is the image, whatever the noise."""
    data = jax.random.uniform(jax.random.key(0), (1, 4), minval=-1.0)
    images = sj.sample(sj.DatasetDenoiser(sde, data), sde, KEYS[:3], (4,), sampler=Sampler(1, "log_snr"))
    # Rounding; a step that stops at the smallest level leaves noise of 0.01.
    np.testing.assert_allclose(images, np.broadcast_to(data, images.shape), atol=1e-6)


def test_samples_of_a_finite_data_set_are_its_images_equally_often(sde):
    data = jnp.array([[-0.8, 0.1], [0.7, 0.6], [0.2, -0.9], [-0.1, 0.9]])
    images = sj.sample(sj.DatasetDenoiser(sde, data), sde, KEYS[:2048], (2,), sampler=Sampler(60, "log_snr"))
    gaps = jnp.max(jnp.abs(images[:, None] - data), -1)
    # The weights of other images are below 1e-6 at the smallest level, 0.01.
    assert float(jnp.max(jnp.min(gaps, 1))) < 1e-3
    counts = np.bincount(np.argmin(gaps, 1), minlength=4) / len(images)
    # 4.5 standard errors of a quarter and the error of 60 steps.
    np.testing.assert_allclose(counts, 0.25, atol=4.5 * (0.25 * 0.75 / len(images)) ** 0.5 + 0.01)


def test_another_denoiser_of_the_same_kind_compiles_nothing_and_other_steps_do(compilations):
    sde = VPSDE()

    def draw(mean, scale, steps=5):
        guided = sj.GuidedDenoiser(sj.GaussianDenoiser(sde, mean, 0.5), sj.GaussianDenoiser(sde, 0.0, 1.0), scale)
        return sj.sample(guided, sde, KEYS[:4], (4,), sampler=Sampler(steps, "log_snr"))

    compilations(lambda: draw(0.1, 1.0))
    assert compilations(lambda: draw(0.7, 1.0)) == 0
    assert compilations(lambda: draw(0.1, 2.5)) == 0
    assert compilations(lambda: draw(0.1, 1.0, steps=6)) > 0  # the counter does count


@pytest.mark.parametrize("seeds", [[], [-1], [2**32]])
def test_seeds_outside_their_range_are_refused_by_name_and_value(seeds):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        sj.keys(seeds)
    assert f"seeds={seeds}" in str(error.value)


def test_a_seed_is_one_image_among_any_others():
    both = jax.random.key_data(sj.keys([3, 2**32 - 1]))
    np.testing.assert_array_equal(both[0], jax.random.key_data(sj.keys([7, 3]))[1])
    assert not np.array_equal(both[0], both[1])
