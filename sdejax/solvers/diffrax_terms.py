"""Any diffrax solver on the reverse process.

    (10) with v = x / sqrt(alpha^2 + sigma^2), a = 1/sqrt(1 + tau), b = sqrt(tau) a, on the clock s of eq. 5 whose
         rate is R = -d(log tau)/ds, and lam and p as in eq. 8 and 9:
         dv = R [-(a^2 + lam^2)/2 v + p a D] ds + lam b sqrt(R) dW(s)

A file of its own, imported where such a solver is used: diffrax takes half a second to import.
"""

import math

import diffrax
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sdejax.noise.brownian import LOG_TAU_RANGE, BrownianPaths, clock, log_tau_at
from sdejax.pytrees import split_per_image
from sdejax.sde.base import SDE
from sdejax.solvers.problem import Problem, State, depth_of, last_step, log_tau_of

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


def _terms(problem: Problem, shape: tuple[int, ...], depth: int, solver: diffrax.AbstractSolver):
    """Eq. 10 as diffrax terms on the clock s, for components scaled by 1 / sqrt(alpha^2 + sigma^2)."""
    lams = problem.components.stochasticity

    def drift(s, scaled, args):
        log_tau = log_tau_at(s)
        a = jnp.exp(-0.5 * jax.nn.softplus(log_tau))
        t = problem.sde.time(jnp.exp(log_tau))
        scale = _scale(problem.sde, t)
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
    return diffrax.MultiTerm(diffrax.ODETerm(drift), _Noise(problem, problem.paths(shape, depth, levy_area)))


def _begun(problem: Problem, s: ArrayLike) -> jax.Array | float:
    """`Problem.begun` on the clock: from there back to a time is a rounding, by which a start may be before itself."""
    if problem.begin is None:
        return 1.0
    own = clock(log_tau_of(problem.sde, problem.begin))
    return ((jnp.asarray(s) >= own - _ROUNDING) & (problem.begin > 0.0)).astype(problem.begin.dtype)


def _scale(sde: SDE, t: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.square(sde.alpha(t)) + jnp.square(sde.sigma(t)))


def stepped(problem: Problem, state: State, times: jax.Array, solver: diffrax.AbstractSolver) -> State:
    """A diffrax solver on the sampler's own grid."""
    terms = _terms(problem, state[0].shape[1:], depth_of(len(times)), solver)
    scaled = tuple(x / _scale(problem.sde, times[0]) for x in state)
    s = clock(log_tau_of(problem.sde, times))
    if len(times) > 1:

        def step(carry, interval):
            scaled, memory = carry
            s0, s1 = interval
            moved, _, _, memory, _ = solver.step(terms, s0, s1, scaled, None, memory, made_jump=False)
            advanced = s1 > s0  # a start below the smallest level has steps of length 0
            return (tuple(jnp.where(advanced, b, a) for a, b in zip(scaled, moved, strict=True)), memory), None

        memory = solver.init(terms, s[0], s[1], scaled, None)
        (scaled, _), _ = jax.lax.scan(step, (scaled, memory), (s[:-1], s[1:]))
    return last_step(problem, times[-1], tuple(x * _scale(problem.sde, times[-1]) for x in scaled))


def adaptive(
    problem: Problem,
    state: State,
    start: jax.Array,
    times: jax.Array,
    solver: diffrax.AbstractSolver,
    controller: diffrax.AbstractStepSizeController,
) -> State:
    """A diffrax solver with steps of its own choice, image by image, so that an image depends on its seed alone.

    One whose steps come to no end, in 100,000 or with the controller's shortest, is nan.
    """
    sde = problem.sde
    end = times[-1]
    s0, s1 = (clock(log_tau_of(sde, t)) for t in (start, end))

    def one(drive, key, begin, state):
        alone = Problem(drive, problem.components, sde, key[None], None if begin is None else begin[None])
        state = tuple(x[None] for x in state)
        solution = diffrax.diffeqsolve(
            _terms(alone, state[0].shape[1:], 16, solver),
            solver,
            s0,
            s1,
            (s1 - s0) / len(times),
            tuple(x / _scale(sde, start) for x in state),
            stepsize_controller=controller,
            max_steps=100_000,
            throw=False,
        )
        assert solution.ts is not None and solution.ys is not None
        # By the time and not by diffrax's result, which fails a last step that proposes too short a next one.
        arrived = solution.ts[-1] >= s1
        ended = tuple(jnp.where(arrived, x[-1] * _scale(sde, end), jnp.nan) for x in solution.ys)
        return tuple(x[0] for x in last_step(alone, end, ended))

    marked, rebuild = split_per_image(problem.drive)
    return jax.vmap(lambda marked, *rest: one(rebuild([leaf[None] for leaf in marked]), *rest))(
        marked, problem.keys, problem.begin, state
    )
