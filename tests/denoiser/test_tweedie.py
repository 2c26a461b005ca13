"""Tweedie's second moment: the derivative of D is the posterior's covariance.

    dD/dx = alpha / sigma^2 Cov[x0 | x_t = x]

The covariances are sums over the data, or over a fine grid of x0, by Bayes' rule in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj

WEIGHTS = np.array([0.3, 0.5, 0.2])
MEANS = np.array([[-0.8, 0.1], [0.6, 0.5], [0.2, -0.9]])
STDS = np.array([0.3, 0.45, 0.25])
LEVELS = (0.15, 0.5, 2.0)  # of noise over the signal
GRID = np.stack(np.meshgrid(*[np.linspace(-4.0, 4.0, 321)] * 2, indexing="ij"), -1).reshape(-1, 2)


def normal(x, mean, std):
    """The density of N(mean, std^2) in the plane, up to a constant."""
    return np.exp(-0.5 * np.sum(((x - mean) / std) ** 2, -1)) / np.prod(std * np.ones(2))


def denoisers(sde):
    """Each with points of x0 and their prior weights."""
    mean, std = np.array([0.2, -0.3]), np.array([0.5, 0.3])
    mixture = sum(w * normal(GRID, m, s) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True))
    return {
        "gaussian": (sj.GaussianDenoiser(sde, np.float32(mean), np.float32(std)), GRID, normal(GRID, mean, std)),
        "mixture": (sj.MixtureDenoiser(sde, *map(np.float32, (WEIGHTS, MEANS, STDS))), GRID, mixture),
        "dataset": (sj.DatasetDenoiser(sde, np.float32(MEANS)), MEANS, np.ones(3)),
    }


@pytest.mark.parametrize("name", ["gaussian", "mixture", "dataset"])
def test_the_derivative_of_the_denoiser_is_the_posterior_covariance(sde, name):
    denoiser, points, prior = denoisers(sde)[name]
    slope = jax.jit(jax.jacfwd(lambda x, t: denoiser(t, x[None])[0]))
    for level in LEVELS:
        t = sde.time(jnp.float32(level**2))
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        for x0 in ([0.1, 0.3], [-0.5, 0.2]):
            x = alpha * np.array(x0)
            posterior = prior * np.exp(-0.5 * np.sum((x - alpha * points) ** 2, -1) / sigma**2)
            posterior /= posterior.sum()
            mean = posterior @ points
            covariance = (posterior[:, None] * (points - mean)).T @ (points - mean)
            # Float32 of alpha, sigma and t. alpha^2 for alpha, sigma for sigma^2, a component's own spread left out
            # (s^2 sigma^2 / v), or the weights taken as constants in x, are off by a tenth and more.
            np.testing.assert_allclose(slope(np.float32(x), t), alpha / sigma**2 * covariance, rtol=1e-3, atol=2e-4)
            # The first moment, and so a check of the sums.
            np.testing.assert_allclose(denoiser(t, np.float32(x)[None])[0], mean, rtol=1e-3, atol=2e-5)
