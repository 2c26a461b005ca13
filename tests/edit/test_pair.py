"""Eq. 11 and 14: how the noises of the image's path and of the edit's are coupled."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.edit.coupling import Correlated, Coupling, Independent, Reflection, Resampled, Synchronous
from sdejax.sde.variance_preserving import VPSDE
from sdejax.solvers.sampler import Sampler

M, S, DM = -0.3, 0.5, 0.7
SHAPE = (4, 4, 3)
KEYS = sj.keys(range(512))
IMAGE = jax.random.uniform(jax.random.key(0), (1, *SHAPE), minval=-1.0)
SDE = VPSDE()
FAST = Sampler(10, "log_snr")


def pair(sde):
    return sj.GaussianDenoiser(sde, M, S), sj.GaussianDenoiser(sde, M + DM, S)


def mixture(sde, seed):
    means = jax.random.uniform(jax.random.key(seed), (3, *SHAPE), minval=-1.0)
    return sj.MixtureDenoiser(sde, jnp.ones(3), means, 0.4)


def edit(coupling, sampler=FAST, keys=KEYS[:6], mask=None, sde=SDE):
    source, target = mixture(sde, 1), mixture(sde, 2)
    return np.asarray(
        sj.sync_sde(source, target, sde, IMAGE, keys, strength=0.7, sampler=sampler, coupling=coupling, mask=mask)
    )


def test_correlation_1_is_synchronous_and_0_is_independent():
    # Rounding; a correlation of the square of rho, or of sqrt(1 - rho) in place of sqrt(1 - rho^2), is off at 1 or 0.
    np.testing.assert_allclose(edit("correlated(1)"), edit("synchronous"), atol=1e-6)
    np.testing.assert_allclose(edit("correlated(0)"), edit("independent"), atol=1e-6)
    assert np.abs(edit("independent") - edit("synchronous")).max() > 0.1


@pytest.mark.parametrize("rho", [-0.5, 0.8])  # 0 is "independent", above
def test_correlated_noises_leave_the_closed_form_variance(rho):
    """Between Gaussians of equal variance (y - z) / alpha has sync-SDE's drift and noise of variance 2 (1 - rho).

    Each noise alone would leave the variance s^2 (1 - k) of SDEdit's, k = s^2 / (s^2 + tau), and d has both.
    """
    sampler, strength = Sampler(60, "log_snr"), 0.6
    moved = sj.sync_sde(*pair(SDE), SDE, IMAGE, KEYS, strength=strength, sampler=sampler, coupling=f"correlated({rho})")
    moved = np.asarray(moved - IMAGE, np.float64)
    tau = float(SDE.tau(strength))
    k = S**2 / (S**2 + tau)
    variance = 2.0 * (1.0 - rho) * S**2 * (1.0 - k)
    # 4.5 standard errors of 24576 values, and the error of 60 steps.
    assert abs(moved.mean() - DM * (1.0 - k)) < 4.5 * (variance / moved.size) ** 0.5 + 0.003
    # Without the 2, with rho in place of 1 - rho, or another noise for z than its own, this is off by half and more.
    assert abs(moved.var() / variance - 1.0) < 4.5 * (2.0 / moved.size) ** 0.5 + 0.02


def test_reflection_moves_along_the_change_alone():
    """y's noise is z's mirrored in the plane between them: between Gaussians the change stays on its line."""
    moved = sj.sync_sde(*pair(SDE), SDE, IMAGE, KEYS[:64], strength=0.6, sampler=FAST, coupling="reflection") - IMAGE
    moved = np.asarray(moved, np.float64).reshape(64, -1)
    size = np.linalg.norm(moved, axis=1)
    # Rounding; a mirror that moves more than one direction leaves the line by the noise, 0.5.
    np.testing.assert_allclose(moved, np.broadcast_to(moved.mean(1, keepdims=True), moved.shape), atol=1e-4)
    assert size.std() > 0.1  # it is noise


@pytest.mark.parametrize("coupling", ["independent", "correlated(0.5)", "reflection", "resampled", "resampled(3)"])
def test_a_masked_pixel_is_the_image_bit_for_bit_under_every_coupling(coupling):
    inside = np.zeros(SHAPE[:2], bool)
    inside[1:3, 1:3] = True
    edited = edit(coupling, mask=inside)
    expected = np.broadcast_to(IMAGE, edited.shape)
    np.testing.assert_array_equal(edited[:, ~inside], expected[:, ~inside])
    assert np.min(np.abs(edited - expected)[:, inside].max(axis=(1, 2))) > 0.05


@pytest.mark.parametrize(
    ("text", "coupling"),
    [
        ("synchronous", Synchronous()),
        ("synchronous(4)", Synchronous(4)),
        ("resampled", Resampled()),
        ("resampled(4)", Resampled(4)),
        ("independent", Independent()),
        (" correlated( -0.5 ) ", Correlated(-0.5)),
        ("correlated(5e-1)", Correlated(0.5)),
        ("correlated(1)", Correlated(1.0)),
        ("reflection", Reflection()),
        (Reflection(), Reflection()),
    ],
)
def test_couplings_are_parsed(text, coupling):
    assert Coupling.parse(text) == coupling


@pytest.mark.parametrize(
    "text",
    ["", "sync", "correlated", "correlated()", "correlated(1.1)", "correlated(nan)", "resampled(0)", "resampled(1.5)",
     "resampled(-1)", "independent(0.5)", "synchronous(0)", "synchronous(1.5)",
     "reflection(1)", "correlated(0.5", "reflection reflection"],
)  # fmt: skip
def test_other_couplings_are_refused_by_name_and_value(text):
    with pytest.raises(ValueError, match=re.escape(f"coupling={text!r}")):
        Coupling.parse(text)
