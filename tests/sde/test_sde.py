"""Eq. 1 to 4: two numbers alpha and sigma, everything else derived from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.sde.rectified_flow import RectifiedFlow
from sdejax.sde.variance_exploding import VESDE
from sdejax.sde.variance_preserving import VPSDE, DiscreteVPSDE, SubVPSDE

OTHERS = [
    VPSDE(),
    VPSDE(beta_min=0.5, beta_max=8.0),
    VPSDE(beta_min=3.0, beta_max=3.0),
    SubVPSDE(),
    SubVPSDE(beta_min=0.5, beta_max=8.0),
    VESDE(),
    VESDE(sigma_min=0.1, sigma_max=10.0),
    RectifiedFlow(),
    DiscreteVPSDE(tuple(np.linspace(1e-4, 0.02, 1000).tolist())),
]
every_sde = pytest.mark.parametrize("sde", OTHERS, ids=str)


def betas(sde, t):
    """beta(t) and its integral, in float64."""
    t = np.asarray(t, np.float64)
    slope = sde.beta_max - sde.beta_min
    return sde.beta_min + slope * t, sde.beta_min * t + 0.5 * slope * t**2


def closed_forms(sde, t):
    """alpha, sigma, f and g^2 in float64, from the papers' formulas."""
    t = np.asarray(t, np.float64)
    if isinstance(sde, VESDE):
        log_ratio = np.log(sde.sigma_max / sde.sigma_min)
        sigma = sde.sigma_min * np.exp(t * log_ratio)
        return np.ones_like(t), sigma, np.zeros_like(t), 2.0 * log_ratio * sigma**2
    if isinstance(sde, RectifiedFlow):
        return 1.0 - t, t, -1.0 / (1.0 - t), 2.0 * t / (1.0 - t)
    if isinstance(sde, DiscreteVPSDE):
        # Between levels k and k + 1 beta is constant: n log(1 / (1 - betas[k])).
        rates = -len(sde.betas) * np.log1p(-np.asarray(sde.betas))
        level = np.minimum((t * len(rates)).astype(int), len(rates) - 1)
        beta = rates[level]
        integral = (np.cumsum(rates) - rates)[level] / len(rates) + beta * (t - level / len(rates))
    else:
        beta, integral = betas(sde, t)
    if isinstance(sde, VPSDE | DiscreteVPSDE):
        return np.exp(-integral / 2.0), np.sqrt(-np.expm1(-integral)), -beta / 2.0, beta
    return np.exp(-integral / 2.0), -np.expm1(-integral), -beta / 2.0, beta * -np.expm1(-2.0 * integral)


@every_sde
def test_the_simulated_forward_sde_has_the_mean_and_variance_of_eq_1(sde):
    paths, steps, x0 = 2**14, 400, 1.5
    key, first = jax.random.split(jax.random.key(0, impl="rbg"))  # quick to compile and to draw from

    @jax.jit
    def simulate(key, x, t0, t1):
        h = (t1 - t0) / steps

        def step(i, x):
            # The drift and the diffusion of the middle of a step leave an error of order h^2 in the moments' rates.
            t = t0 + (i + 0.5) * h
            noise = jax.random.normal(jax.random.fold_in(key, i), x.shape)
            return x + sde.drift(t, x) * h + sde.diffusion(t) * jnp.sqrt(h) * noise

        return jax.lax.fori_loop(0, steps, step, x)

    t = 1e-3
    x = sde.perturb(t, x0, jax.random.normal(first, (paths,)))
    for i, t1 in enumerate((0.3, 0.75)):
        x = simulate(jax.random.fold_in(key, i), x, t, t1)
        t = t1
        alpha, sigma, _, _ = closed_forms(sde, t)
        # 4 standard errors and the simulation's own 1%; a drift without its 1/2 is off by 50% and more.
        assert abs(float(x.mean()) - alpha * x0) < 4.0 * sigma / paths**0.5 + 0.01 * alpha * x0
        # 4 standard errors are 4.4%, and 1.6% are the simulation's; g^2 = beta in place of sub-VP's is off by 20%
        # and more at t = 0.3, g in place of g^2 or a factor 2 by more still.
        assert abs(float(x.var()) / sigma**2 - 1.0) < 0.06


@every_sde
def test_alpha_sigma_and_tau_are_exact_also_where_they_cancel(sde):
    t = np.concatenate([np.geomspace(1e-6, 0.1, 50), np.linspace(0.1, 0.99, 50)]).astype(np.float32)
    alpha, sigma, _, _ = closed_forms(sde, t)
    # float32 of exponents up to 10; 1 - exp(-B) in place of expm1 is wrong by 10% and more at t = 1e-6.
    np.testing.assert_allclose(sde.alpha(t), alpha, rtol=2e-5)
    np.testing.assert_allclose(sde.sigma(t), sigma, rtol=2e-5)
    np.testing.assert_allclose(sde.tau(t), (sigma / alpha) ** 2, rtol=5e-5)


@every_sde
def test_drift_and_diffusion_are_the_closed_forms(sde):
    t = np.linspace(0.0105, 0.9505, 95).astype(np.float32)  # in the middle between the levels of a chain of 1000
    _, _, f, g_squared = closed_forms(sde, t)
    # float32; sub-VP's exp(-B) in place of exp(-2B) and VP's beta in place of it are off by 1% and more.
    np.testing.assert_allclose(sde.drift(t, np.ones_like(t)), f, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.square(sde.diffusion(t)), g_squared, rtol=1e-4)


@every_sde
def test_time_is_the_inverse_of_tau(sde):
    t = np.concatenate([np.linspace(0.0, 1.0, 2001), np.geomspace(1e-6, 0.1, 50)]).astype(np.float32)
    # The quadratic's root in the form that cancels is wrong by 1e-4 at small t, and nan at t = 0.
    np.testing.assert_allclose(sde.time(sde.tau(t)), t, atol=1e-5)


@every_sde
def test_tau_rises_between_the_bounds_that_a_solver_uses(sde):
    t = np.linspace(0.0, 1.0, 1001).astype(np.float32)
    assert np.all(np.diff(sde.tau(t)) > 0.0)
    assert 0.0 < sde.tau_min < sde.tau_max < np.inf
    if not isinstance(sde, RectifiedFlow):
        # float32; a tau_max for sigma_max instead of its square, or of half the integral of beta, is off by far more.
        np.testing.assert_allclose(sde.tau_max, sde.tau(1.0), rtol=1e-4)


def test_a_discrete_chain_is_met_at_its_levels_and_lies_between_them():
    betas = np.linspace(1e-4, 0.02, 1000)
    sde = DiscreteVPSDE(tuple(betas.tolist()))
    signal = np.cumprod(1.0 - betas)  # alpha^2 at level k, Ho et al. 2020
    levels = np.arange(1000)
    tau = (1.0 / signal - 1.0).astype(np.float32)
    # A hundredth of a level; counting from t = k / 1000, or betas for their logarithms, is off by 1 level and more.
    np.testing.assert_allclose(1000.0 * sde.time(tau) - 1.0, levels, atol=0.01)
    np.testing.assert_allclose(sde.alpha((levels + 1) / 1000) ** 2, signal, rtol=1e-5)
    between = sde.tau(((levels[:-1] + 1.5) / 1000).astype(np.float32))
    assert np.all((between > tau[:-1]) & (between < tau[1:]))


def test_chains_of_the_same_ends_are_not_written_alike():
    """Kept programs are named by what is written: diffusers' linear and scaled linear betas had one program."""
    linear = tuple(np.linspace(1e-4, 0.02, 1000).tolist())
    scaled = (linear[0], *(np.linspace(1e-2, 0.02**0.5, 1000)[1:-1] ** 2).tolist(), linear[-1])
    assert repr(DiscreteVPSDE(linear)) == repr(DiscreteVPSDE(linear)) != repr(DiscreteVPSDE(scaled))


def test_a_finer_chain_tends_to_the_continuous_process():
    """betas beta(t) / n: Song et al. 2021, appendix B. First order in 1 / n; betas at the wrong end of a step, too."""
    t, errors = np.linspace(0.1, 1.0, 10), []
    for count in (100, 1000):
        middles = (np.arange(count) + 0.5) / count
        chain = DiscreteVPSDE(tuple(((0.1 + 19.9 * middles) / count).tolist()))
        errors.append(float(np.log(VPSDE().alpha(t) / chain.alpha(t)).max()))
    # -log(1 - b) = b + b^2 / 2: the chain's B is larger by the integral of beta^2 / 2n. A factor 2 in the exponent, or
    # a sum that starts a step late, does not tend to 0; betas taken for -log(1 - betas) do at once.
    np.testing.assert_allclose(errors[1], (20.0**3 - 0.1**3) / (3 * 19.9) / 4000, rtol=0.05)
    assert 9.0 < errors[0] / errors[1] < 12.0


def test_perturb_lines_times_up_with_images(sde):
    t = jnp.array([0.1, 0.4, 0.9])
    x0, noise = jax.random.normal(jax.random.key(0), (2, 3, 3, 3))  # a batch as long as the other axes
    together = sde.perturb(t, x0, noise)
    for i in range(3):
        alpha, sigma, f, _ = closed_forms(sde, t[i])
        # float32; times lined up with the last axis instead of the first are off by the spread of alpha and sigma.
        np.testing.assert_allclose(together[i], alpha * x0[i] + sigma * noise[i], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(sde.drift(t, x0)[i], f * x0[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: VPSDE(beta_min=-1.0), "beta_min=-1.0"),
        (lambda: VPSDE(beta_min=0.0), "beta_min=0.0"),
        (lambda: VPSDE(beta_min=2.0, beta_max=1.0), "beta_max=1.0"),
        (lambda: SubVPSDE(beta_max=float("inf")), "beta_max=inf"),
        (lambda: SubVPSDE(beta_max=float("nan")), "beta_max=nan"),
        (lambda: DiscreteVPSDE(()), "betas: 0 numbers"),
        (lambda: DiscreteVPSDE((0.1, 1.0)), "betas: 2 numbers, must be at least one, each above 0 and below 1"),
        (lambda: VESDE(sigma_min=0.0), "sigma_min=0.0"),
        (lambda: VESDE(sigma_min=1.0, sigma_max=1.0), "sigma_max=1.0"),
        (lambda: VESDE(sigma_max=float("inf")), "sigma_max=inf"),
    ],
)
def test_parameters_outside_their_range_are_refused_by_name_and_value(make, named):
    with pytest.raises(ValueError, match=named.replace(".", r"\.")):
        make()
