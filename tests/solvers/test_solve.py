"""Eq. 8 to 10: the solvers against the orders that theory gives them, an independent ODE solve, and each other.

The steps lie on dyadic points of the clock, level 10 to 0.01 in 3 * 2^k steps, where trees of every depth are one path.
Elsewhere trees of two depths differ within a leaf, an eighth of a step: an error of strong order 1 too, but noisy.
"""

import dataclasses
from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.noise.brownian import BrownianPaths
from sdejax.sde.variance_preserving import VPSDE
from sdejax.solvers.exponential import Exponential
from sdejax.solvers.problem import Components, Problem
from sdejax.solvers.sampler import Sampler
from sdejax.solvers.solve import solve

KEYS = sj.keys(range(96))
TAU = 10.0**2
X0 = 0.3
WEIGHTS = np.array([0.3, 0.4, 0.3], np.float32)
MEANS = np.array([[-1.0, 0.2], [0.1, -0.4], [0.8, 0.9]], np.float32)
STDS = np.array([0.5, 0.4, 0.6], np.float32)
STEPS = (25, 49, 97)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Alone:
    """One component, moved by its denoiser."""

    denoiser: sj.MixtureDenoiser

    def __call__(self, t, state):
        return (self.denoiser(t, state[0]),)

    def noise(self, state, unit):
        return unit


def begin(sde, keys, shape=(2,)):
    start = sde.time(TAU)
    return start, sde.perturb(start, X0, BrownianPaths(keys, shape).start())


@partial(jax.jit, static_argnames=("sde", "sampler"))
def _run(denoiser, sde, keys, sampler):
    start, x = begin(sde, keys)
    drive = Alone(denoiser)
    return solve(Problem(drive, Components((sampler.stochasticity,)), sde, keys), (x,), start, sampler)[0]


def run(sampler, sde=VPSDE(), keys=KEYS):  # noqa: B008
    return np.asarray(_run(sj.MixtureDenoiser(sde, WEIGHTS, MEANS, STDS), sde, keys, sampler))


def rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


@pytest.fixture(scope="module")
def fine():
    """The solution for each stochasticity, in 8 times more steps than any that is compared with it."""
    return {
        lam: run(Sampler(8 * (STEPS[-1] - 1) + 1, "log_snr", solver=Exponential(2), stochasticity=lam))
        for lam in (0.0, 1.0)
    }


# In the bands of the orders: sampling error of 192 values, and at order 2 the pre-asymptotic first point. The
# neighbouring orders are 1 away (1/2 for the noise of a path that each number of steps draws anew: order 0).
@pytest.mark.parametrize(
    ("solver", "lam", "least", "most"),
    [
        (Exponential(1), 0.0, 0.85, 1.2),
        (Exponential(2), 0.0, 1.8, 2.3),  # 1 without the extrapolation, or with its weight or gap wrong
        (diffrax.Euler(), 0.0, 0.85, 1.2),
        (diffrax.Heun(), 0.0, 1.6, 2.3),  # 1 where a stage sees the drift of another time
        (Exponential(1), 1.0, 0.8, 1.3),  # 1/2 for multiplicative noise, 0 for another path
        (Exponential(2), 1.0, 0.8, 1.45),  # the increments of the path alone allow no more than 1
        (diffrax.Euler(), 1.0, 0.8, 1.3),  # 1/2 if lam b sqrt(R) were that of the step's end in one solver only
    ],
    ids=lambda value: value if isinstance(value, float) else f"{type(value).__name__}{vars(value).get('order', '')}",
)
def test_strong_order(fine, solver, lam, least, most):
    errors = [rms(run(Sampler(n, "log_snr", solver=solver, stochasticity=lam)) - fine[lam]) for n in STEPS]
    order = -np.polyfit(np.log([n - 1 for n in STEPS]), np.log(errors), 1)[0]
    assert least < order < most, errors


@pytest.mark.slow
def test_a_solver_with_levy_area_converges_faster_than_the_increments_allow():
    """ShARK is of strong order 1.5; its tree draws a Levy area too, so its path is another than the increments'."""
    fine = run(Sampler(385, "log_snr", solver=diffrax.ShARK()))
    errors = [rms(run(Sampler(n, "log_snr", solver=diffrax.ShARK())) - fine) for n in (25, 97)]
    # 1 where the Levy area does not belong to the increment that it comes with.
    assert np.log(errors[0] / errors[1]) / np.log(4.0) > 1.35, errors


@pytest.mark.parametrize("steps", [10, 20])
def test_the_exponential_step_beats_euler_maruyama_on_the_same_path(fine, steps):
    errors = [
        rms(run(Sampler(steps, "log_snr", solver=solver)) - fine[1.0]) for solver in (Exponential(2), diffrax.Euler())
    ]
    # About 0.7 and 0.5; without the extrapolation, order 1, it would be no better.
    assert errors[0] < 0.9 * errors[1], errors


@pytest.mark.slow
def test_an_adaptive_solver_finds_the_same_path(fine):
    tolerance = diffrax.PIDController(rtol=1e-3, atol=1e-3)
    adaptive = Sampler(20, "log_snr", solver=sj.Diffrax(diffrax.Heun(), tolerance))
    batch = run(adaptive)
    # Ten times the tolerance, and the reference's own error of 0.003; another path is off by 0.5.
    assert rms(batch - fine[1.0]) < 0.02
    # Steps follow the image: alone it differs by rounding, which an accepted step or a path may magnify up to the
    # tolerance's scale; steps shared by the batch would leave this as it is, another image's noise would not.
    assert np.max(np.abs(run(adaptive, keys=KEYS[5:6])[0] - batch[5])) < 0.03
    # With a shortest step that most images cannot do with, those are nan, no half-way states, and the others as before.
    short = diffrax.PIDController(rtol=1e-3, atol=1e-3, dtmin=5e-4, force_dtmin=False)
    ended = run(dataclasses.replace(adaptive, solver=sj.Diffrax(diffrax.Heun(), short)))
    failed = np.isnan(ended[:, 0])
    assert 0 < failed.sum() < len(KEYS)
    np.testing.assert_array_equal(ended, np.where(failed[:, None], np.nan, batch))


def test_stochasticity_0_is_the_probability_flow_ode(sde):
    """Eq. 8 in t with lam = 0, from jax.grad of the log density; only alpha, sigma, f and g are the library's."""

    def log_density(x, t):
        variance = (sde.alpha(t) * STDS) ** 2 + sde.sigma(t) ** 2
        squares = jnp.sum((x - sde.alpha(t) * MEANS) ** 2, -1)
        return jax.nn.logsumexp(jnp.log(WEIGHTS) - jnp.log(variance) - 0.5 * squares / variance)

    score = jax.vmap(jax.grad(log_density), (0, None))

    def field(t, x, args):
        return sde.drift(t, x) - 0.5 * sde.diffusion(t) ** 2 * score(x, t)

    @jax.jit
    def exact():
        start, x = begin(sde, KEYS)
        end = sde.time(sde.tau_min)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Tsit5(), start, end, -1e-3, x,
            stepsize_controller=diffrax.PIDController(rtol=1e-5, atol=1e-6), max_steps=10000,
        )  # fmt: skip
        x = solution.ys[-1]
        return (x + sde.sigma(end) ** 2 * score(x, end)) / sde.alpha(end)

    # The error of 97 steps of second order, 4e-4 in the rms; (1 + lam^2) in place of its half, or lam left in the
    # drift, is off by 0.1 and more.
    result = run(Sampler(97, "log_snr", stochasticity=0.0), sde)
    assert rms(result - exact()) < 1e-3


def test_a_key_means_the_same_image_under_every_process(fine, sde):
    """All four are one process seen through a change of scale and clock: eq. 9 and 10 may not see which."""
    # The error of 97 steps against the reference, taken on VP; alpha' or sigma' of the wrong end of the step is off
    # by 0.1 and more, and a clock of the process's own makes the paths unlike, 0.5.
    assert rms(run(Sampler(97, "log_snr"), sde) - fine[1.0]) < 0.02
    # The last D is at the level 0.01 of every process here, so that the images differ by rounding, which moves points
    # of the paths by 1e-3.
    assert rms(run(Sampler(97, "log_snr"), sde) - run(Sampler(97, "log_snr"))) < 0.003
