"""Eq. 14: under every coupling the noise of y is white.

It is unit[0] + difference, which must be N(0, I) whatever the change is. Then y follows the reverse SDE of its own
denoiser alone: with D_y = D(t, y), which is SDEdit (eq. 12), its law is SDEdit's, however its noise goes with z's. For
data N(m, s^2), k = s^2 / (s^2 + tau) and lam = 1 that is N(m + k (x0 - m), s^2 (1 - k^2)).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.edit.coupling import Coupling

SIZE = 4
DRAWS = 8192
SDE = sj.VPSDE()
M, S, STRENGTH = 0.2, 0.6, 0.3
IMAGE = np.array([[0.5, -0.4, 0.1, -0.9]], np.float32)
COUPLINGS = ["synchronous", "independent", "correlated(0.6)", "correlated(-0.5)", "reflection"]


def distance(values):
    """Kolmogorov and Smirnov's, from N(0, 1)."""
    exact = np.asarray(jax.scipy.stats.norm.cdf(np.sort(values.reshape(-1))))
    rank = np.arange(exact.size + 1) / exact.size
    return max(np.max(rank[1:] - exact), np.max(exact - rank[:-1]))


def check_white(values, slack=0.0):
    """Of (n, d) values: N(0, 1) each, exceeded once in 1000 times, and uncorrelated to 5 standard errors."""
    assert distance(values) < 1.95 / values.size**0.5 + slack
    covariance = values.T @ values / len(values)
    np.testing.assert_allclose(covariance, np.eye(values.shape[1]), atol=5.0 * (2.0 / len(values)) ** 0.5 + slack)


# Of the wrong formulas a reflection by half (1 for its 2) has variance 0 along the change, one whose direction is not
# of length 1 has more than 1, rho^2 for rho and sqrt(1 - rho) for sqrt(1 - rho^2) are off by 0.2 and more, and the
# noise of the path of its own alone (without its - xi_z) has variance 2.
@pytest.mark.parametrize("text", COUPLINGS)
def test_the_noise_of_the_edit_is_white_whatever_the_change(text):
    coupling = Coupling.parse(text)
    unit = tuple(jax.random.normal(jax.random.key(i), (DRAWS, SIZE)) for i in range(coupling.paths))
    for change in ([0.3, -1.0, 0.02, 0.5], [0.0, 0.0, 0.0, 1e-4], [0.0] * SIZE):
        difference = coupling.difference(jnp.broadcast_to(jnp.asarray(change), (DRAWS, SIZE)), unit)
        check_white(np.asarray(unit[0] if difference is None else unit[0] + difference, np.float64))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OfItsOwn:
    """D_y = D(t, y)."""

    denoiser: sj.GaussianDenoiser

    def __call__(self, t, z, y, image):
        return self.denoiser(t, y) - image


@pytest.mark.parametrize("text", ["independent", "correlated(-0.5)", "reflection"])
def test_along_a_whole_solve_the_law_of_the_edit_does_not_depend_on_the_coupling(text):
    rule, keys = OfItsOwn(sj.GaussianDenoiser(SDE, M, S)), sj.keys(range(DRAWS // 2))
    edited = sj.edit(rule, SDE, IMAGE, keys, strength=STRENGTH, sampler=sj.Sampler(25), coupling=text)
    k = S**2 / (S**2 + float(SDE.tau(STRENGTH)))
    values = (np.asarray(edited, np.float64) - M - k * (IMAGE - M)) / (S**2 * (1.0 - k**2)) ** 0.5
    # The error of 25 steps of second order. A start whose noise is a part of a path's, or a path of its own that is
    # the image's, is off by 0.1.
    check_white(values, slack=0.02)
