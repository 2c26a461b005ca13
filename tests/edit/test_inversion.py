"""Editors that run up to noise first (eq. 18): closed forms, orders, and the papers' own loops."""

import re
from itertools import pairwise

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.noise.brownian import BrownianPaths
from sdejax.noise.keys import stream
from sdejax.sde.rectified_flow import RectifiedFlow
from sdejax.sde.variance_exploding import VESDE
from sdejax.sde.variance_preserving import VPSDE
from sdejax.solvers.exponential import Exponential
from sdejax.solvers.sampler import Sampler

M, S, DM, S2 = -0.3, 0.5, 0.7, 0.8
SHAPE = (4, 4, 3)
KEYS = sj.keys(range(3))
IMAGE = jax.random.uniform(jax.random.key(0), (1, *SHAPE), minval=-1.0)
EDITORS = {"ode": sj.ode_inversion, "fire": sj.fire_flow, "rf": sj.rf_inversion}


def pair(sde):
    return sj.GaussianDenoiser(sde, M, S), sj.GaussianDenoiser(sde, M + DM, S2)


def mixture(sde, seed):
    means = jax.random.uniform(jax.random.key(seed), (3, *SHAPE), minval=-1.0)
    return sj.MixtureDenoiser(sde, jnp.ones(3), means, 0.4)


def closed_form(sde, strength, share=1.0):
    """The flow of N(M, S^2) up to `strength`, its noise at share * strength, and the flow of N(M + DM, S2^2) down."""
    image = np.asarray(IMAGE, np.float64)
    tau = float(sde.tau(strength))
    top = M + (image - M) * np.sqrt(1.0 + tau / S**2)
    noise = (top - image) / np.sqrt(tau)
    tau = float(sde.tau(share * strength))
    return M + DM + (image + np.sqrt(tau) * noise - M - DM) / np.sqrt(1.0 + tau / S2**2)


@pytest.mark.parametrize("method", ["ode", "fire"])
def test_between_gaussians_the_edit_is_the_closed_form(sde, method):
    """Flows of Gaussians scale the distance to the mean by sqrt(1 + tau / s^2).

    The error of 400 steps; a value that begins later does so at the next of them, which is of first order. The source's
    flow on both ways, a sign, or a start from SDEdit's noise is off by 0.1; noise without its process's scale by more.
    """
    mask = jnp.ones(SHAPE[:2]).at[0].set(0.6)
    edited = EDITORS[method](*pair(sde), sde, IMAGE, KEYS, strength=0.8, mask=mask, sampler=sj.Sampler(400, "log_snr"))
    for row, share, atol in ((1, 1.0, 0.025 if method == "ode" else 1e-3), (0, 0.6, 0.025)):
        expected = np.broadcast_to(closed_form(sde, 0.8, share)[:, row], edited[:, row].shape)
        np.testing.assert_allclose(edited[:, row], expected, atol=atol)


@pytest.mark.parametrize(("method", "order"), [("ode", 1), ("fire", 2)])
def test_an_inversion_returns_its_image_with_its_order(method, order):
    """The error of the round trip falls as steps^-order, from an image that the model may well have drawn.

    0.15 is what 16 to 128 steps still lack of the limit. FireFlow from the velocity at a step's end has order 1.
    """
    sde, counts = RectifiedFlow(), (16, 32, 64, 128)
    model = mixture(sde, 1)
    image = jnp.asarray(model.means)[:1] + 0.2 * jax.random.normal(jax.random.key(5), (1, *SHAPE))
    edits = [
        EDITORS[method](model, model, sde, image, KEYS, strength=0.6, sampler=sj.Sampler(steps, "time"))
        for steps in counts
    ]
    errors = [float(jnp.max(jnp.abs(edit - image))) for edit in edits]
    assert abs(-np.polyfit(np.log(counts), np.log(errors), 1)[0] - order) < 0.15, errors


def velocity(denoiser, t, x):
    """Rectified flow's."""
    return (x - denoiser(jnp.float32(t), x)) / t


def test_rf_inversion_is_the_papers_two_loops():
    """Rout et al. 2025, algorithms 1 and 2, on their own process: Euler steps of the two controlled equations.

    The first step up, whose velocity at t = 0 no denoiser gives, is that of no noise. Float32; the pull of the image
    for one step more or less, or eta in place of gamma, is off by 0.01 and more.
    """
    sde, steps, gamma, eta = RectifiedFlow(), 8, 0.4, 0.7
    source, target = mixture(sde, 1), mixture(sde, 2)
    towards = BrownianPaths(stream(stream(KEYS, 0), 0), SHAPE).start()
    times = np.linspace(0.0, 1.0, steps + 1)
    y = jnp.broadcast_to(IMAGE, (3, *SHAPE))
    for t, after in pairwise(times):
        free = velocity(source, t, y) if t > 0.0 else -y
        y = y + (after - t) * (free + gamma * ((towards - y) / (1.0 - t) - free))
    for number, (t, after) in enumerate(pairwise(times[::-1])):
        free = velocity(target, t, y)
        pull = eta if number < 0.25 * steps else 0.0
        y = y + (after - t) * (free + pull * ((y - IMAGE) / t - free))
    edited = sj.rf_inversion(source, target, sde, IMAGE, KEYS, sampler=sj.Sampler(steps, "time"), gamma=gamma, eta=eta)
    np.testing.assert_allclose(edited, y, atol=2e-4)


@pytest.mark.parametrize("sde", [VESDE(), RectifiedFlow()], ids=["VE", "RF"])
def test_the_limits_of_rf_inversion(sde):
    """No pull is ODE inversion; the noise's full pull is SDEdit's noise under the ODE; the image's returns the image.

    Rounding, up to noise level 50. A pull that is not exact at 1 (a factor of the step left out) leaves 0.1 and more.
    """
    source, target = mixture(sde, 1), mixture(sde, 2)

    def edit(gamma, eta, controlled):
        return sj.rf_inversion(
            source,
            target,
            sde,
            IMAGE,
            KEYS,
            strength=0.8,
            sampler=sj.Sampler(12, "log_snr"),
            gamma=gamma,
            eta=eta,
            controlled=controlled,
        )

    inverted = sj.ode_inversion(source, target, sde, IMAGE, KEYS, strength=0.8, sampler=sj.Sampler(12, "log_snr"))
    np.testing.assert_allclose(edit(0.0, 0.9, 0.0), inverted, atol=1e-5)
    sampler = Sampler(12, "log_snr", solver=Exponential(1), stochasticity=0.0)
    noised = sj.sdedit(target, sde, IMAGE, KEYS, strength=0.8, sampler=sampler)
    np.testing.assert_allclose(edit(1.0, 0.0, 1.0), noised, atol=1e-3)
    returned = edit(0.5, 1.0, 1.0)
    np.testing.assert_allclose(returned, np.broadcast_to(IMAGE, returned.shape), atol=1e-4)


@pytest.mark.parametrize("sde", [VESDE()], ids=["VE"])
@pytest.mark.parametrize("method", EDITORS)
def test_a_masked_pixel_is_the_image_bit_for_bit(sde, method):
    inside = np.zeros(SHAPE[:2], bool)
    inside[1:3, 1:3] = True
    edited = np.asarray(
        EDITORS[method](
            mixture(sde, 1), mixture(sde, 2), sde, IMAGE, KEYS, mask=inside, sampler=sj.Sampler(10, "log_snr")
        )
    )
    expected = np.broadcast_to(IMAGE, edited.shape)
    np.testing.assert_array_equal(edited[:, ~inside], expected[:, ~inside])
    assert np.min(np.abs(edited - expected)[:, inside].max(axis=(1, 2))) > 0.05


def test_another_strength_or_pull_compiles_nothing(compilations):
    sde = VPSDE()

    def edit(strength, gamma, steps=7):
        return sj.rf_inversion(
            *pair(sde), sde, IMAGE, KEYS, strength=strength, gamma=gamma, sampler=sj.Sampler(steps, "log_snr")
        )

    compilations(lambda: edit(0.5, 0.5))
    assert compilations(lambda: edit(0.9, 0.2)) == 0
    assert compilations(lambda: edit(0.9, 0.2, steps=8)) > 0  # the counter does count


@pytest.mark.parametrize(
    ("given", "said"),
    [({"gamma": 1.5}, "gamma=1.5"), ({"eta": -0.1}, "eta=-0.1"), ({"controlled": float("nan")}, "controlled=nan"),
     ({"strength": 0.0}, "strength=0.0"), ({"sampler": sj.Sampler(solver=diffrax.Heun())}, "sampler solver=Diffrax"),
     ({"sampler": sj.Sampler(stochasticity=0.5)}, "sampler stochasticity=0.5")],
)  # fmt: skip
def test_what_is_outside_its_range_is_refused_by_name_and_value(given, said):
    sde = VPSDE()
    with pytest.raises(ValueError, match=re.escape(said)):
        sj.rf_inversion(*pair(sde), sde, IMAGE, KEYS, **given)
