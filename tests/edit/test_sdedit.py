"""Eq. 12: SDEdit, against the closed forms of Gaussian data.

Write x / alpha = u, whose noise has variance tau, and let the data be N(m, s^2) in every pixel. Then
D - u = -tau (u - m) / (s^2 + tau), and eq. 8 is, with tau falling and p = (1 + lam^2) / 2,

    d(u - m) = p (u - m) / (s^2 + tau) dtau + lam dW(tau).

From u ~ N(g, tau) at the strength's tau, with k = s^2 / (s^2 + tau), this linear equation ends at tau = 0 with

    mean      m + k^p (g - m)
    variance  k^(1 + lam^2) tau + int_0^tau lam^2 (s^2 / (s^2 + v))^(1 + lam^2) dv
            = k^(1 + lam^2) tau + s^2 (1 - k^(lam^2)).

At lam = 1 these are the posterior's (s^2 g + tau m) / (s^2 + tau) and k^2 tau + s^2 tau / (s^2 + tau); at lam = 0
m + s (g - m) / sqrt(s^2 + tau) and s^2 tau / (s^2 + tau).
"""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.sde.rectified_flow import RectifiedFlow
from sdejax.sde.variance_exploding import VESDE
from sdejax.sde.variance_preserving import VPSDE
from sdejax.solvers.sampler import Sampler

M, S, G = -0.3, 0.5, 0.8
SHAPE = (8, 8, 3)
KEYS = sj.keys(range(128))
GUIDE = jnp.full((1, *SHAPE), G)
SAMPLER = Sampler(30, "log_snr")


def closed_form(sde, strength, lam):
    """The factor that the guide's distance from m shrinks by, and the variance."""
    tau = float(sde.tau(strength))
    k = S**2 / (S**2 + tau)
    return k ** ((1.0 + lam**2) / 2.0), k ** (1.0 + lam**2) * tau + S**2 * (1.0 - k ** (lam**2))


def check(values, mean, variance):
    """Mean and variance of independent values, to 4.5 standard errors and the error of 30 steps."""
    values = np.asarray(values, np.float64).reshape(-1)
    assert abs(values.mean() - mean) < 4.5 * (variance / values.size) ** 0.5 + 0.002
    assert abs(values.var() / variance - 1.0) < 4.5 * (2.0 / values.size) ** 0.5 + 0.01


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_gaussian_data_has_the_closed_form_mean_and_variance(sde, lam):
    sampler = Sampler(30, "log_snr", stochasticity=lam)
    denoiser = sj.GaussianDenoiser(sde, M, S)
    for strength in (0.35, 0.6):
        shrink, variance = closed_form(sde, strength, lam)
        result = sj.sdedit(denoiser, sde, GUIDE, KEYS, strength=strength, sampler=sampler)
        # Standard errors are 0.003 and 1%. The wrong power of k (p = 1 for every lam), lam in place of lam^2, or tau
        # of sigma without alpha moves the mean by 0.05 or the variance by 10% and more.
        check(result, M + shrink * (G - M), variance)


def test_stochasticity_between_the_two_has_its_own_closed_form():
    test_gaussian_data_has_the_closed_form_mean_and_variance(VPSDE(), 0.5)


def test_a_mask_value_is_the_strength_of_its_pixels(sde):
    """With a denoiser that treats pixels alone, mask m at strength t0 has the law of strength m t0."""
    values = (0.25, 0.5, 0.8, 1.0)
    mask = jnp.repeat(jnp.array(values), 2)[:, None] * jnp.ones((8, 8))
    denoiser = sj.GaussianDenoiser(sde, M, S)
    for lam in (0.0, 1.0):
        sampler = Sampler(60, "log_snr", stochasticity=lam)
        result = sj.sdedit(denoiser, sde, GUIDE, KEYS, strength=0.7, mask=mask, sampler=sampler)
        for i, value in enumerate(values):
            shrink, variance = closed_form(sde, value * 0.7, lam)
            # Blending result and guide by the mask has another variance; beginning at the next step of the grid
            # instead of at the pixel's own time is off by 2%, holding y on the clean guide by far more.
            check(result[:, 2 * i : 2 * i + 2], M + shrink * (G - M), variance)


@pytest.mark.parametrize("sde", [VPSDE(), RectifiedFlow()], ids=["VP", "RF"])
def test_repeats_compose(sde):
    """K repeats are r <- m + shrink (r - m) + fresh noise: mean shrink^K, variance v (1 + shrink^2 + ...)."""
    shrink, variance = closed_form(sde, 0.4, 1.0)
    denoiser = sj.GaussianDenoiser(sde, M, S)
    result = sj.sdedit(denoiser, sde, GUIDE, KEYS, strength=0.4, repeats=3, sampler=SAMPLER)
    # The same noise in every repeat has up to 3 times the variance; noising the first guide again has K = 1's.
    check(result, M + shrink**3 * (G - M), variance * sum(shrink ** (2 * i) for i in range(3)))
    # Without fresh noise the remains e of it add up: r <- m + shrink (r - m) + e. A path afresh has the variance above,
    # 0.7 of this one or less; one shared start with other steps lies between.
    same = sj.sdedit(denoiser, sde, GUIDE, KEYS, strength=0.4, repeats=3, fresh_noise=False, sampler=SAMPLER)
    check(same, M + shrink**3 * (G - M), variance * sum(shrink**i for i in range(3)) ** 2)


def test_the_smallest_strength_returns_the_guide(sde):
    guide = jax.random.uniform(jax.random.key(0), (1, *SHAPE), minval=-1.0)
    for strength in (1e-3, 1e-5):
        result = sj.sdedit(sj.GaussianDenoiser(sde, M, S), sde, guide, KEYS, strength=strength, sampler=SAMPLER)
        level = float(sde.tau(strength)) ** 0.5
        # 6 standard deviations of the noise that was put on; a start from the smallest level that solvers visit, 0.01,
        # is off by 0.03 where the process itself begins below it.
        assert float(jnp.max(jnp.abs(result - guide))) < 6.0 * level
        assert float(jnp.std(result - guide)) > 0.5 * level or not isinstance(sde, VESDE)


def test_a_masked_pixel_is_the_guide_bit_for_bit(sde):
    guide = jax.random.uniform(jax.random.key(0), (1, *SHAPE), minval=-1.0)
    means = jax.random.uniform(jax.random.key(1), (3, *SHAPE), minval=-1.0)
    denoiser = sj.MixtureDenoiser(sde, jnp.ones(3), means, 0.2)
    inside = np.zeros(SHAPE[:2], bool)
    inside[2:5, 3:7] = True
    sampler = Sampler(12, "log_snr")
    half = sj.sdedit(denoiser, sde, guide, KEYS[:8], mask=inside, sampler=sampler, repeats=2)
    none = sj.sdedit(denoiser, sde, guide, KEYS[:8], mask=np.zeros(SHAPE[:2]), sampler=sampler, repeats=2)
    expected = np.broadcast_to(guide, half.shape)
    # Bit for bit; x0 recovered from alpha x0 + n would differ in its last digits.
    np.testing.assert_array_equal(np.asarray(half)[:, ~inside], expected[:, ~inside])
    np.testing.assert_array_equal(none, expected)
    assert np.min(np.abs(np.asarray(half) - expected)[:, inside].max(axis=(1, 2))) > 0.05


def test_other_weights_strengths_and_masks_compile_nothing_and_other_steps_do(compilations):
    sde = VPSDE()

    def edit(mean, scale, strength, mask, steps=9):
        denoiser = sj.GuidedDenoiser(sj.GaussianDenoiser(sde, mean, S), sj.GaussianDenoiser(sde, M, S), scale)
        return sj.sdedit(
            denoiser, sde, GUIDE, KEYS[:4], strength=strength, mask=mask, sampler=Sampler(steps, "log_snr")
        )

    ones, half = np.ones(SHAPE, np.float32), np.full(SHAPE, 0.5, np.float32)
    compilations(lambda: edit(0.1, 1.0, 0.5, ones))
    assert compilations(lambda: edit(0.2, 1.0, 0.5, ones)) == 0
    assert compilations(lambda: edit(0.1, 3.0, 0.5, ones)) == 0
    assert compilations(lambda: edit(0.1, 1.0, 0.7, ones)) == 0
    assert compilations(lambda: edit(0.1, 1.0, 0.5, half)) == 0
    assert compilations(lambda: edit(0.1, 1.0, 0.5, ones, steps=10)) > 0  # the counter does count


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"strength": 0.0}, "strength=0.0"),
        ({"strength": 1.5}, "strength=1.5"),
        ({"strength": float("nan")}, "strength=nan"),
        ({"strength": np.array([0.5, 0.6])}, "strength="),
        ({"repeats": 0}, "repeats=0"),
        ({"repeats": 1.5}, "repeats=1.5"),
        ({"mask": np.full((8, 8), 1.2)}, "mask"),
        ({"mask": np.full((8, 8), -0.1)}, "mask"),
        ({"mask": np.ones((5, 8))}, "mask shape=(5, 8)"),
        ({"guide": np.zeros((2, *SHAPE), np.float32)}, "image shape=(2, 8, 8, 3)"),
        ({"guide": np.zeros((1, *SHAPE), np.uint8)}, "image dtype=uint8"),
        ({"keys": np.zeros((4, 2), np.uint32)}, "keys"),
    ],
)
def test_arguments_outside_their_range_are_refused_by_name_and_value(arguments, named):
    arguments = {"guide": np.zeros((1, *SHAPE), np.float32), "keys": KEYS[:4], **arguments}
    with pytest.raises(ValueError) as error:  # noqa: PT011
        sj.sdedit(sj.GaussianDenoiser(VPSDE()), VPSDE(), arguments.pop("guide"), arguments.pop("keys"), **arguments)
    assert named in str(error.value)


@pytest.mark.parametrize("solver", [diffrax.Euler(), diffrax.Heun()], ids=["euler", "heun"])
def test_an_edit_by_a_solver_of_diffrax_is_smooth_in_its_strength(solver):
    """Every value begins at the strength itself. Rejects a beginning that is looked for at the time of a level of that
    time: a rounding later for half of the strengths, which then lose the first call of the denoiser, 0.05 and more.
    """
    denoiser, sampler = sj.GaussianDenoiser(VPSDE(), M, S), Sampler(5, "log_snr", solver=solver, stochasticity=0.0)
    strengths = np.linspace(0.59, 0.61, 9)
    guide, keys = jnp.full((1, 2, 2, 1), G), KEYS[:1]
    results = [
        float(sj.sdedit(denoiser, VPSDE(), guide, keys, strength=strength, sampler=sampler).mean())
        for strength in strengths
    ]
    assert np.max(np.abs(np.diff(results, 2))) < 1e-4, results


def test_an_adaptive_solver_arrives_from_every_strength_however_small():
    """Below the smallest level there is a rounding of the clock to go, after which diffrax finds its next step short:
    a sixth of these strengths would be nan.
    """
    steps = diffrax.PIDController(rtol=0.01, atol=0.01, dtmin=1e-6, force_dtmin=False)
    sampler = Sampler(20, "edm", sj.Diffrax(diffrax.Heun(), steps), 0.0)
    denoiser, guide = sj.GaussianDenoiser(RectifiedFlow(), M, S), jnp.full((1, 2, 2, 1), G)
    for strength in np.linspace(1e-4, 9e-3, 60):
        result = sj.sdedit(denoiser, RectifiedFlow(), guide, KEYS[:1], strength=strength, sampler=sampler)
        # Noise of at most the strength is added, and at most taken away.
        np.testing.assert_allclose(result, G, atol=6.0 * strength)
