"""The reverse process as terms of diffrax.

    (10) with v = x / sqrt(alpha^2 + sigma^2), a = 1/sqrt(1 + tau), b = sqrt(tau) a, on the clock s of eq. 5 whose
         rate is R = -d(log tau)/ds, and lam and p as in eq. 8 and 9:
         dv = R [-(a^2 + lam^2)/2 v + p a D] ds + lam b sqrt(R) dW(s)

A file of its own, imported only if such a solver is used: diffrax takes half a second to import.
"""

import math

import diffrax
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sdejax.noise.brownian import LOG_TAU_RANGE, BrownianPaths, clock, log_tau_at
from sdejax.sde.base import SDE
from sdejax.solvers.problem import Problem, log_tau_of

_ROUNDING = 1e-6  # of s in float32, through the logarithm of tau


class _Noise(diffrax.AbstractTerm):
    """lam b sqrt(R) dW(s) of eq. 10 for image-shaped noise, which diffrax's ControlTerm refuses."""

    problem: Problem
    paths: tuple[BrownianPaths, ...]

    def vf(self, t, y, args):
        components = self.problem.components
        rate = math.sqrt(LOG_TAU_RANGE) * jnp.exp(-0.5 * jax.nn.softplus(-log_tau_at(t)))
        begun = _begun(self.problem, t)
        rates = tuple(
            lam * rate * (begun if driven else 1.0)
            for lam, driven in zip(components.stochasticity, components.driven, strict=True)
        )
        return rates, (y if components.multiplicative else (None,) * len(rates))

    def contr(self, t0, t1, **kwargs):
        increments = tuple(path.increment(t0, t1) for path in self.paths)
        if not kwargs.get("use_levy", False):
            return tuple(increment.W for increment in increments)
        return jax.tree.map(lambda first, *rest: (first, *rest) if rest else first, *increments)

    def prod(self, vf, control):
        rates, state = vf
        control = control if isinstance(control, tuple) else (control,)
        noises = self.problem.drive.noise(state, control)
        return tuple(
            jnp.zeros_like(control[0]) if noise is None else rate * noise
            for rate, noise in zip(rates, noises, strict=True)
        )


def terms_of(
    problem: Problem, shape: tuple[int, ...], steps: int, solver: diffrax.AbstractSolver
) -> diffrax.AbstractTerm:
    """Eq. 10 as diffrax terms on the clock s, for components scaled by 1 / sqrt(alpha^2 + sigma^2)."""
    lams = problem.components.stochasticity

    def drift(s, scaled, args):
        log_tau = log_tau_at(s)
        a = jnp.exp(-0.5 * jax.nn.softplus(log_tau))
        t = problem.sde.time(jnp.exp(log_tau))
        scale = scale_of(problem.sde, t)
        signals = problem.drive(t, tuple(x * scale for x in scaled))
        moved = []
        for x, signal, lam in zip(scaled, signals, lams, strict=True):
            slope = -0.5 * (jnp.square(a) + lam**2) * x
            if signal is not None:
                slope = slope + (0.5 * (1.0 + lam**2) * a) * _begun(problem, s) * signal
            moved.append(LOG_TAU_RANGE * slope)
        return tuple(moved)

    if not problem.components.noisy:
        return diffrax.ODETerm(drift)
    levy_area = getattr(solver, "minimal_levy_area", diffrax.BrownianIncrement)
    if levy_area is diffrax.AbstractSpaceTimeLevyArea:
        levy_area = diffrax.SpaceTimeLevyArea
    return diffrax.MultiTerm(diffrax.ODETerm(drift), _Noise(problem, problem.paths(shape, steps, levy_area)))


def _begun(problem: Problem, s: ArrayLike) -> jax.Array | float:
    """`Problem.begun` at clock time s. The tolerance is for rounding: s converted to a time may be before its start."""
    if problem.begin is None:
        return 1.0
    own = clock(log_tau_of(problem.sde, problem.begin))
    return ((jnp.asarray(s) >= own - _ROUNDING) & (problem.begin > 0.0)).astype(problem.begin.dtype)


def scale_of(sde: SDE, t: jax.Array) -> jax.Array:
    """sqrt(alpha^2 + sigma^2), the scale of v in eq. 10."""
    return jnp.sqrt(jnp.square(sde.alpha(t)) + jnp.square(sde.sigma(t)))
