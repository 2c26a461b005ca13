"""Eq. 13: sync-SDE, against the closed forms of Gaussian data.

Let source and target be N(m, s^2) and N(m + dm, s^2), and d = (y - z) / alpha. The noise of y - z cancels, and
D_target(y) - D_source(z) = (s^2 d + tau dm) / (s^2 + tau), so that eq. 8 for the pair is, with p = (1 + lam^2) / 2,

    d' = p (d - D_target + D_source) / tau = p (d - dm) / (s^2 + tau)

in tau, from d = 0 at the strength's tau down to 0: whatever the noise, d ends as dm (1 - (s^2 / (s^2 + tau))^p),
which is dm tau / (s^2 + tau) at lam = 1 and dm (1 - s / sqrt(s^2 + tau)) at lam = 0.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.solvers.sampler import Sampler

M, S, DM = -0.3, 0.5, 0.7
SHAPE = (4, 4, 3)
KEYS = sj.keys(range(6))
IMAGE = jax.random.uniform(jax.random.key(0), (1, *SHAPE), minval=-1.0)


def pair(sde):
    return sj.GaussianDenoiser(sde, M, S), sj.GaussianDenoiser(sde, M + DM, S)


def mixture(sde, seed):
    means = jax.random.uniform(jax.random.key(seed), (3, *SHAPE), minval=-1.0)
    return sj.MixtureDenoiser(sde, jnp.ones(3), means, 0.4)


def delta(sde, strength, lam):
    tau = float(sde.tau(strength))
    return DM * (1.0 - (S**2 / (S**2 + tau)) ** ((1.0 + lam**2) / 2.0))


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_between_gaussians_every_seed_moves_the_image_by_the_closed_form(sde, lam):
    sampler = Sampler(200, "log_snr", stochasticity=lam)
    mask = jnp.ones(SHAPE[:2]).at[0].set(0.6).at[1].set(0.3)
    for strength in (0.4, 0.8):
        moved = sj.sync_sde(*pair(sde), sde, IMAGE, KEYS, strength=strength, sampler=sampler, mask=mask) - IMAGE
        # float32 of the noise that cancels, up to level 50; a noise that does not cancel leaves 0.1 and more.
        np.testing.assert_allclose(moved, np.broadcast_to(moved[:1, :, :1, :1], moved.shape), atol=2e-4)
        # The error of 200 steps; lam = 0's power at lam = 1, or half of eq. 8's 1 + lam^2 left out, is off by 0.05.
        for row, share in ((3, 1.0), (0, 0.6), (1, 0.3)):
            np.testing.assert_allclose(moved[:, row], delta(sde, share * strength, lam), atol=2e-3)


@pytest.mark.parametrize("steps", [3, 300])
def test_the_same_source_and_target_return_the_image(sde, steps):
    same = sj.sync_sde(mixture(sde, 1), mixture(sde, 1), sde, IMAGE, KEYS, sampler=Sampler(steps, "log_snr"))
    # The law is exact; an image recovered from alpha x0 + sigma e is off by 1e-5 and more, at VE and RF most.
    np.testing.assert_allclose(same, np.broadcast_to(IMAGE, same.shape), atol=1e-6)


def test_the_same_source_and_target_return_the_image_under_the_ode_too(sde):
    source, _ = pair(sde)
    same = sj.sync_sde(source, source, sde, IMAGE, KEYS, sampler=Sampler(200, "log_snr", stochasticity=0.0))
    np.testing.assert_allclose(same, np.broadcast_to(IMAGE, same.shape), atol=1e-6)


def test_a_masked_pixel_is_the_image_bit_for_bit(sde):
    inside = np.zeros(SHAPE[:2], bool)
    inside[1:3, 1:3] = True
    sampler = Sampler(300, "log_snr")
    edited = sj.sync_sde(mixture(sde, 1), mixture(sde, 2), sde, IMAGE, KEYS, mask=inside, sampler=sampler)
    expected = np.broadcast_to(IMAGE, edited.shape)
    np.testing.assert_array_equal(np.asarray(edited)[:, ~inside], expected[:, ~inside])
    assert np.min(np.abs(np.asarray(edited) - expected)[:, inside].max(axis=(1, 2))) > 0.05


def test_small_strength_changes_little_and_more_strength_changes_more(sde):
    source, target = mixture(sde, 1), mixture(sde, 2)
    sampler = Sampler(300, "log_snr")
    sizes = [
        float(jnp.mean(jnp.abs(sj.sync_sde(source, target, sde, IMAGE, KEYS, strength=t, sampler=sampler) - IMAGE)))
        for t in (1e-4, 0.2, 0.9)
    ]
    # The two D differ by order tau / s^2 at small tau, 1e-3 at level 0.01; an edit from a level of its own does not.
    assert sizes[0] < 2e-3
    assert sizes[0] < sizes[1] < sizes[2]


def test_other_weights_strengths_and_masks_compile_nothing_and_another_coupling_does(compilations):
    sde = sj.RectifiedFlow()

    def edit(dm, strength, mask, coupling="synchronous"):
        source, target = sj.GaussianDenoiser(sde, M, S), sj.GaussianDenoiser(sde, M + dm, S)
        return sj.sync_sde(
            source, target, sde, IMAGE, KEYS,
            strength=strength, mask=mask, sampler=Sampler(7, "log_snr"), coupling=coupling,
        )  # fmt: skip

    ones = np.ones(SHAPE, np.float32)
    compilations(lambda: edit(0.5, 0.5, ones))
    assert compilations(lambda: edit(0.7, 0.5, ones)) == 0
    assert compilations(lambda: edit(0.5, 0.9, ones)) == 0
    assert compilations(lambda: edit(0.5, 0.5, 0.5 * ones)) == 0
    assert compilations(lambda: edit(0.5, 0.5, ones, "independent")) > 0  # the counter does count
