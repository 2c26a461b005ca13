"""Eq. 6 and 7: what a network's output means, and the denoisers that are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.denoiser.exact import DatasetDenoiser, GaussianDenoiser, MixtureDenoiser
from sdejax.denoiser.guidance import GuidedDenoiser
from sdejax.denoiser.prediction import (
    EDM,
    PredictCleanImage,
    PredictDisplacement,
    PredictNoise,
    PredictScaledScore,
    PredictScore,
    PredictV,
    PredictVelocity,
)
from sdejax.denoiser.protocol import score
from sdejax.pytrees import PerImage, split_per_image
from sdejax.sde.rectified_flow import RectifiedFlow

TIMES = jnp.array([0.02, 0.15, 0.3, 0.5, 0.7])
WEIGHTS, MEANS, STDS = np.array([0.2, 0.5, 0.3]), np.array([-1.0, 0.1, 0.8]), np.array([0.1, 0.3, 0.2])


def pairs(count, shape=(3, 2)):
    x0, noise = jax.random.normal(jax.random.key(0), (2, count, *shape))
    return x0, noise


def posterior_mean(sde, t, x, density):
    """E[x0 | x_t = x] of scalar data with `density`, by summing over a fine grid, in float64."""
    x0 = np.linspace(-4.0, 4.0, 40001)
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    log_likelihood = -0.5 * ((x - alpha * x0) / sigma) ** 2
    weight = density(x0) * np.exp(log_likelihood - log_likelihood.max())
    return np.sum(weight * x0) / np.sum(weight)


def mixture_density(x):
    x = np.asarray(x)[..., None]
    return np.sum(WEIGHTS / STDS * np.exp(-0.5 * ((x - MEANS) / STDS) ** 2), -1) / np.sqrt(2.0 * np.pi)


PREDICTIONS = [
    PredictNoise(), PredictCleanImage(), PredictV(), PredictVelocity(), PredictDisplacement(), EDM(0.5), PredictScore(),
    PredictScaledScore(),
]  # fmt: skip


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=lambda prediction: type(prediction).__name__)
def test_target_and_denoised_are_inverse(sde, prediction):
    x0, noise = pairs(len(TIMES))
    output = prediction.target(sde, TIMES, x0, noise)
    back = prediction.denoised(sde, TIMES, sde.perturb(TIMES, x0, noise), output)
    # float32 through a division by alpha = 0.08; a wrong sign, or edm's scale left out of one side, is off by 0.1
    # and more.
    np.testing.assert_allclose(back, x0, atol=1e-4)


def test_targets_are_the_published_ones():
    x0, noise = pairs(len(TIMES))
    sde = RectifiedFlow()
    t = TIMES[:, None, None]
    # The velocity of the straight line is its slope in t; x0 - noise is the line run backwards.
    slope = (sde.perturb(TIMES + 0.01, x0, noise) - sde.perturb(TIMES - 0.01, x0, noise)) / 0.02
    np.testing.assert_allclose(PredictVelocity().target(sde, TIMES, x0, noise), slope, atol=1e-3)
    angle_cos, angle_sin = (1.0 - t) / jnp.hypot(1.0 - t, t), t / jnp.hypot(1.0 - t, t)
    # v = cos e - sin x0, to float32; v of an alpha and sigma that are not scaled to a circle is off by 30%.
    np.testing.assert_allclose(
        PredictV().target(sde, TIMES, x0, noise), angle_cos * noise - angle_sin * x0, rtol=1e-4, atol=1e-5
    )


def test_edm_targets_have_unit_variance_and_output_0_is_the_best_linear_guess(sde):
    count, scale = 20000, 0.5
    x0, noise = pairs(count, ())
    for t in (0.1, 0.4, 0.8):
        output = EDM(scale).target(sde, t, scale * x0, noise)
        # 5 standard errors, 2.5% each; the scalings of unit data leave a variance of 0.3 to 3.
        assert abs(float(output.var()) - 1.0) < 5.0 * (2.0 / count) ** 0.5
        x = sde.perturb(t, scale * x0, noise)
        guess = EDM(scale).denoised(sde, t, x, jnp.zeros_like(x))
        # float32; c_skip without its alpha is off by 1 / alpha.
        np.testing.assert_allclose(guess, GaussianDenoiser(sde, 0.0, scale)(t, x), rtol=1e-4, atol=1e-6)


def test_velocity_and_v_have_no_division_by_alpha_at_pure_noise():
    x = jnp.ones((1, 2))
    for prediction in (PredictVelocity(), PredictDisplacement(), PredictV(), EDM(), PredictCleanImage()):
        assert bool(jnp.all(jnp.isfinite(prediction.denoised(RectifiedFlow(), 1.0, x, x))))


def test_the_gaussian_denoiser_is_the_posterior_mean(sde):
    mean, std = -0.3, 0.4
    denoiser = GaussianDenoiser(sde, mean, std)
    for t in (0.1, 0.4, 0.8):
        x = sde.alpha(t) * mean + jnp.array([[-1.5], [0.2], [2.0]]) * sde.sigma(t)
        exact = [posterior_mean(sde, t, float(v), lambda x0: np.exp(-0.5 * ((x0 - mean) / std) ** 2)) for v in x[:, 0]]
        # float32; std in place of its square, or a mean without its sigma^2, is off by 10% and more.
        np.testing.assert_allclose(denoiser(t, x)[:, 0], exact, atol=1e-4)


def test_the_mixture_denoiser_is_the_posterior_mean(sde):
    denoiser = MixtureDenoiser(sde, WEIGHTS, MEANS[:, None], STDS)
    for t in (0.1, 0.4, 0.8):
        x = sde.alpha(t) * jnp.array([[-1.0], [-0.4], [0.5], [2.0]]) + 0.5 * sde.sigma(t)
        exact = [posterior_mean(sde, t, float(v), mixture_density) for v in x[:, 0]]
        # float32; responsibilities without the components' volumes are off by 5% and more.
        np.testing.assert_allclose(denoiser(t, x)[:, 0], exact, atol=2e-4)


def test_the_score_is_the_gradient_of_the_log_density(sde):
    """In 3 pixels, with components of unlike widths: the volume of a component counts once for each pixel."""
    means = jax.random.normal(jax.random.key(1), (3, 3))
    denoiser = MixtureDenoiser(sde, WEIGHTS, means, STDS)

    def log_density(x, t):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        variance = (alpha * STDS) ** 2 + sigma**2
        log_terms = jnp.log(WEIGHTS) - 1.5 * jnp.log(variance) - 0.5 * jnp.sum((x - alpha * means) ** 2, -1) / variance
        return jax.nn.logsumexp(log_terms)

    t = jnp.array([0.05, 0.2, 0.4, 0.6, 0.9])
    x = sde.perturb(t, jnp.broadcast_to(means[0], (5, 3)), jax.random.normal(jax.random.key(2), (5, 3)))
    exact = jax.vmap(jax.grad(log_density))(x, t) * sde.sigma(t)[:, None]
    # In units of 1 / sigma, to float32; a score divided by sigma instead of sigma^2 is off by that factor.
    np.testing.assert_allclose(score(denoiser, sde, t, x) * sde.sigma(t)[:, None], exact, atol=2e-3)


def test_the_dataset_denoiser_is_the_weighted_mean_of_the_data(sde):
    data = np.asarray(jax.random.uniform(jax.random.key(3), (6, 2, 2), minval=-1.0), np.float64)
    denoiser = DatasetDenoiser(sde, data)
    noise = np.asarray(jax.random.normal(jax.random.key(4), (2, 2)), np.float64)
    for t in (0.3, 0.6, 0.95):
        alpha, tau = float(sde.alpha(t)), float(sde.tau(t))
        clean = data[1] + tau**0.5 * noise
        log_weight = -np.sum((clean - data) ** 2, (1, 2)) / (2.0 * tau)
        weight = np.exp(log_weight - log_weight.max())
        exact = np.tensordot(weight / weight.sum(), data, 1)
        # float32; tau in place of 2 tau makes the weights those of half the noise.
        np.testing.assert_allclose(denoiser(t, jnp.asarray(alpha * clean, jnp.float32)[None])[0], exact, atol=2e-3)
    t = 1e-3
    # Almost no noise: the image that it is, to float32, and no nan where all the other weights are 0.
    near = jnp.asarray(float(sde.alpha(t)) * data, jnp.float32)
    np.testing.assert_allclose(denoiser(t, near), data, atol=1e-5)


def test_guidance_runs_along_the_line_of_two_denoisers(sde):
    conditional, unconditional = GaussianDenoiser(sde, 1.0, 0.5), GaussianDenoiser(sde, -0.5, 1.0)
    x, t = jnp.linspace(-1.0, 1.0, 5)[:, None], 0.4
    c, u = conditional(t, x), unconditional(t, x)
    # float32; a scale of the convention (1 + scale) D_c - scale D_u gives these one scale too early.
    for scale, expected in ((0.0, u), (1.0, c), (3.0, 3.0 * c - 2.0 * u)):
        guided = GuidedDenoiser(conditional, unconditional, scale)(t, x)
        np.testing.assert_allclose(guided, expected, rtol=1e-5, atol=1e-5)


def test_only_marked_leaves_are_split_and_they_return_to_their_places():
    tree = {"shared": jnp.ones(3), "own": [PerImage(jnp.arange(4)), PerImage(jnp.arange(8))], "more": jnp.zeros(4)}
    marked, rebuild = split_per_image(tree)
    assert [leaf.shape[0] for leaf in marked] == [4, 8]
    back = rebuild([leaf[2:3] for leaf in marked])
    assert int(back["own"][0].value[0]) == 2
    assert int(back["own"][1].value[0]) == 2
    assert back["shared"] is tree["shared"]
    assert back["more"] is tree["more"]
