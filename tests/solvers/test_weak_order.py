"""Eq. 9: the law of the solver's state without sampling, and the order in which E[f(x)] converges.

For Gaussian data a step is linear in the state, in the D of the step before, and in the unit noise xi. So the mean and
the variance of the state after each step follow exactly from what a step makes of 0 and of 1 for each of the three.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.noise.brownian import BrownianPaths
from sdejax.solvers.problem import Components, Problem
from sdejax.solvers.solve import solve

M, S, TAU = 0.4, 0.6, 5.0**2
COUNTS = (24, 48, 96)
KEYS = sj.keys(range(2048))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Given:
    """One component, moved by its denoiser, whose noise is `xi` instead of the paths'."""

    denoiser: sj.GaussianDenoiser
    xi: jax.Array

    def __call__(self, t, state):
        return (self.denoiser(t, state[0]),)

    def noise(self, state, unit):
        return (self.xi,)


@partial(jax.jit, static_argnames=("sde", "order", "lam"))
def steps(keys, sde, order, lam):
    """The times of each grid, and for all of their steps the next x and the D, from 0 and from 1 for each input."""
    _, x, before, xi = jnp.eye(4)[:, :, None]
    solver = sj.Exponential(order)
    problem = Problem(Given(sj.GaussianDenoiser(sde, M, S), xi), Components((lam,)), sde, keys, depth=4)
    times = [sj.Sampler(n, "log_snr").times(sde, sde.time(TAU)) for n in COUNTS]
    schedule = jax.tree.map(lambda *parts: jnp.concatenate(parts), *(solver.schedule(problem, t) for t in times))
    memory = (before if order == 2 else None,)

    def step(now):
        (moved,), _, (signal,) = solver.step(problem, (x,), memory, now, 1)
        return jnp.stack([moved[:, 0], signal[:, 0]])

    return times, jax.lax.map(step, schedule)


def laws(sde, order, lam):
    """For each grid: alpha and sigma of its times, and the mean and the variance of x there, by steps of float64."""
    times, rows = steps(KEYS[:4], sde, order, lam)
    rows = iter(np.asarray(rows, np.float64))
    for t in times:
        alpha, sigma = np.asarray(sde.alpha(t), np.float64), np.asarray(sde.sigma(t), np.float64)
        # x and the D of the step before are jointly normal.
        mean, covariance = np.array([alpha[0] * M, 0.0]), np.diag([(alpha[0] * S) ** 2 + sigma[0] ** 2, 0.0])
        found = []
        for _ in t:
            found.append((mean[0], covariance[0, 0]))
            row = next(rows)
            shift, slopes = row[:, 0], row[:, 1:] - row[:, :1]
            mean = shift + slopes[:, :2] @ mean
            covariance = slopes[:, :2] @ covariance @ slopes[:, :2].T + np.outer(slopes[:, 2], slopes[:, 2])
        yield (alpha, sigma, *np.array(found).T)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    ("sde", "lam"),
    [(sj.VPSDE(), 0.0), (sj.RectifiedFlow(), 0.5), (sj.VESDE(), 1.0), (sj.SubVPSDE(), 1.5)],
    ids=["VP 0", "RF 0.5", "VE 1", "subVP 1.5"],
)
def test_the_law_of_x_t_converges_with_the_order_of_the_solver_at_every_stochasticity(sde, lam, order):
    """To N(alpha m, alpha^2 s^2 + sigma^2) at all times, whatever lam."""
    errors = []
    for alpha, sigma, mean, variance in laws(sde, order, lam):
        exact = (alpha * S) ** 2 + sigma**2
        # Float32, times the 1 / alpha of each step: the mean m is right for any number of steps. alpha' of the step's
        # wrong end, or a push without the weight's power p, is off by 0.01 and more.
        np.testing.assert_allclose(mean, alpha * M, atol=1e-5)
        # E cos(2 x / alpha) at the last time: a function with all derivatives.
        waves = [np.exp(-2.0 * v[-1] / alpha[-1] ** 2) * np.cos(2.0 * M) for v in (variance, exact)]
        errors.append((np.abs(variance / exact - 1.0).max(), abs(waves[0] - waves[1])))
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    # What 48 to 96 steps lack of the limit. Without the extrapolation, or with its lag or its gap wrong, order 2 is 1;
    # with the noise of q^lam for q^(lam^2), or with 1 + lam^2 for its half, the error stays as it is: order 0.
    assert np.all(np.abs(slopes[-1] - order) < 0.15), errors
    # The error of 96 steps itself.
    assert errors[-1][0] < (0.12 if order == 1 else 0.01), errors


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Alone:
    """One component, moved by its denoiser."""

    denoiser: sj.MixtureDenoiser

    def __call__(self, t, state):
        return (self.denoiser(t, state[0]),)

    def noise(self, state, unit):
        return unit


@partial(jax.jit, static_argnames=("sampler",))
def ends(keys, sampler):
    sde = sj.VPSDE()
    start = sde.time(10.0**2)  # with the levels down to 0.01, steps of 3 * 2^k lie on dyadic points of the clock
    weights, means, stds = np.array([[0.3, 0.7], [-0.6, 0.5], [0.25, 0.35]], np.float32)
    drive = Alone(sj.MixtureDenoiser(sde, weights, means[:, None], stds))
    x = sde.sigma(start) * BrownianPaths(keys, (1,)).start()
    return solve(Problem(drive, Components((1.0,)), sde, keys), (x,), start, sampler)[0]


def test_the_second_order_solver_is_of_weak_order_2_for_a_mixture_too():
    """D is not linear here, so what the noise adds to its mean, D'' g^2 / 2, counts. The strong order is 1."""
    exact, *found = (np.asarray(ends(KEYS, sj.Sampler(n + 1, "log_snr")), np.float64) for n in (96, 12, 24))
    for f in (np.square, lambda x: np.cos(3.0 * x)):
        # On common paths their standard errors are 3% and 5%.
        errors = [abs(np.mean(f(x) - f(exact))) for x in found]
        # 2 is approached from above. 1 without the extrapolation, or with a lag or a gap of another step.
        assert 1.8 < np.log2(errors[0] / errors[1]) < 2.6, errors
