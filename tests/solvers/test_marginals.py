"""Eq. 8 and 9: the law of x_t at every time between noise and data, and what x_t keeps of its start.

For data N(m, s^2) and any stochasticity lam, x_t is N(alpha m, alpha^2 s^2 + sigma^2): the law does not depend on lam.
What does is the memory. With v = s^2 + tau, u = x / alpha follows du = p (u - m) / v dtau + lam dW(tau), so that

    corr(x_t, x_start) = (v_t / v_start)^(lam^2 / 2)
"""

import dataclasses
from functools import partial

import diffrax
import jax
import numpy as np
import pytest

import sdejax as sj
from sdejax.noise.brownian import BrownianPaths
from sdejax.solvers.problem import Components, Problem

M, S, TAU = 0.4, 0.6, 5.0**2
KEYS = sj.keys(range(2048))
SHAPE = (4,)
VALUES = 2048 * 4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Alone:
    """One component, moved by its denoiser."""

    denoiser: sj.GaussianDenoiser

    def __call__(self, t, state):
        return (self.denoiser(t, state[0]),)

    def noise(self, state, unit):
        return unit


@partial(jax.jit, static_argnames=("sde", "sampler"))
def states(keys, sde, sampler):
    """The times, and x at each of them, (n, b, *shape)."""
    solver, start = sampler.integrator(), sde.time(TAU)
    x = (
        sde.alpha(start) * M
        + (sde.alpha(start) ** 2 * S**2 + sde.sigma(start) ** 2) ** 0.5 * BrownianPaths(keys, SHAPE).start()
    )
    problem = Problem(Alone(sj.GaussianDenoiser(sde, M, S)), Components((sampler.stochasticity,)), sde, keys)
    times = sampler.times(sde, start)

    def step(carry, now):
        state, memory, _ = solver.step(problem, *carry, now, sampler.steps)
        return (state, memory), carry[0][0]

    first = ((x,), solver.start(problem, (x,), times))
    return times, jax.lax.scan(step, first, solver.schedule(problem, times))[1]


# `error` is that of 25 steps. Of the wrong formulas (1 + lam^2) for its half, lam for lam^2 and noise without its
# sqrt(1 - q^(lam^2)) move the variance by a fifth and more; so does a path that is followed for half of the step.
@pytest.mark.parametrize(
    ("sde", "lam", "solver", "error"),
    [
        (sj.VPSDE(), 0.0, sj.Exponential(2), 0.02),
        (sj.RectifiedFlow(), 0.5, sj.Diffrax(diffrax.Heun()), 0.02),
        (sj.VESDE(), 1.0, sj.Exponential(2), 0.03),
        (sj.SubVPSDE(), 1.5, sj.Exponential(2), 0.06),
    ],
    ids=["VP 0", "RF 0.5", "VE 1", "subVP 1.5"],
)
def test_x_t_has_its_law_at_every_time_whatever_the_stochasticity(sde, lam, solver, error):
    times, x = states(KEYS, sde, sj.Sampler(25, "log_snr", solver, lam))
    x = np.asarray(x, np.float64).reshape(25, -1)
    alpha, sigma = (np.asarray(f(times), np.float64) for f in (sde.alpha, sde.sigma))
    variance = (alpha * S) ** 2 + sigma**2
    # 4.5 standard errors of a mean and of a variance.
    assert np.all(np.abs(x.mean(1) - alpha * M) < 4.5 * (variance / VALUES) ** 0.5)
    np.testing.assert_allclose(x.var(1), variance, rtol=4.5 * (2.0 / VALUES) ** 0.5 + error)
    v = variance / alpha**2
    kept = np.asarray([np.corrcoef(x[0], now)[0, 1] for now in x])
    # 4.5 standard errors of a correlation; the exponent lam^2, or lam / 2, is off by 0.1 and more.
    assert np.all(np.abs(kept - (v / v[0]) ** (lam**2 / 2.0)) < 4.5 / VALUES**0.5 + error)
