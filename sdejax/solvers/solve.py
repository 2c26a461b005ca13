"""The reverse process, solved: the exponential solvers, and any diffrax solver.

    (8)  dx = [f x - (1 + lam^2)/2 g^2 score] dt + lam g dW     stochasticity lam: 1 Anderson's reverse SDE, 0 the ODE
    (9)  exponential step t -> t', q = tau'/tau, p = (1 + lam^2)/2, exact where D is constant over the step:
         x' = sigma'/sigma q^(lam^2/2) x + alpha' (1 - q^p) D + sigma' sqrt(1 - q^(lam^2)) xi
         lam = 1 is DDPM's ancestral step, lam = 0 is DDIM. The last step returns D itself.
         Second order: D is extrapolated linearly in log tau from the step before (as DPM-Solver++ 2M does):
         + alpha' [(1 - q^p)/p - log(1/q)] (D - D_before) / (log tau - log tau_before)
    (10) as diffrax's solvers have it: `diffrax_terms`.

Nothing here divides by alpha, so RF's t = 1 is a time like any other.
"""

import math

import jax
import jax.numpy as jnp

from sdejax.noise.brownian import BrownianPaths, Walk, clock
from sdejax.noise.keys import stream
from sdejax.solvers.exponential import Exponential
from sdejax.solvers.langevin import Langevin
from sdejax.solvers.problem import FAR, Problem, State, depth_of, log_tau_of, share_of_last
from sdejax.solvers.sampler import Sampler

_CORRECTOR = 2**20  # the stream of a corrector's noises; the paths of an image have the first few


def solve(problem: Problem, state: State, start: jax.Array, sampler: Sampler) -> State:
    """Integrate every component from time `start` () to the data.

    `state` holds the components at `start`, (b, *shape) each. Returns the last D of each, 0 for pure noise.
    """
    if isinstance(sampler.solver, Exponential):
        return _exponential(problem, state, start, sampler, sampler.solver.order)
    if math.inf in problem.components.stochasticity:
        raise ValueError(f"solver={sampler.solver!r}: noise drawn afresh at every step needs Exponential")
    from sdejax.solvers.diffrax_terms import adaptive, stepped

    if sampler.controller is None:
        return stepped(problem, state, sampler.times(problem.sde, start), sampler.solver)
    return adaptive(problem, state, start, sampler.times(problem.sde, start), sampler.solver, sampler.controller)


def _exponential(problem: Problem, state: State, start: jax.Array, sampler: Sampler, order: int) -> State:
    """Eq. 9. One loop body serves every step; the last goes to tau = 0, where it returns D."""
    drive, sde, lams = problem.drive, problem.sde, problem.components.stochasticity
    times = sampler.times(sde, start)
    log_tau = log_tau_of(sde, times)
    noisy = problem.components.noisy
    paths: tuple[BrownianPaths, ...] = problem.paths(state[0].shape[1:], depth_of(sampler.steps)) if noisy else ()
    own = None if problem.begin is None else jnp.where(problem.begin > 0.0, log_tau_of(sde, problem.begin), -FAR)
    number = jnp.arange(sampler.steps)
    gap = jnp.append(-1.0, jnp.diff(log_tau))
    schedule = {
        "t": times,
        "log_tau": log_tau,
        "log_tau_next": jnp.append(log_tau[1:], -FAR),
        "gap": jnp.where(gap < 0.0, gap, -1.0),
        "extrapolate": (number > 0) & (number < sampler.steps - 1) & (gap < 0.0),
        "number": number,
        "first": number == 0,
        "last": number == sampler.steps - 1,
        "sigma": sde.sigma(times),
        "alpha_next": jnp.append(sde.alpha(times[1:]), 1.0),
        "sigma_next": jnp.append(sde.sigma(times[1:]), 0.0),
        "s": clock(log_tau),
        "s_next": clock(jnp.append(log_tau[1:], log_tau[-1])),
    }

    def signal_step(now, lam: float, signal: jax.Array, before: jax.Array | None) -> jax.Array:
        """alpha' (1 - q^p) D and its second-order term, each value from its own beginning on."""
        power = 0.5 * (1.0 + lam**2)
        since, share = now["log_tau"], 1.0
        if own is not None and problem.begin is not None:
            since = jnp.clip(own, now["log_tau_next"], now["log_tau"])
            share = jnp.where(now["last"], share_of_last(problem.begin, now["t"]), 1.0)
        weight = -jnp.expm1(power * (now["log_tau_next"] - since))
        push = weight * signal
        if before is not None:
            # The mean of (log tau - log tau_now) over the step, under eq. 9's exponential weight.
            lag = weight / power + (now["log_tau_next"] - since) + (since - now["log_tau"]) * weight
            push = push + jnp.where(now["extrapolate"], lag, 0.0) * ((signal - before) / now["gap"])
        return now["alpha_next"] * share * push

    def step(carry, now):
        state, before, walks, path_values = carry
        if sampler.corrector is not None:
            state = _correct(problem, state, now["t"], now["number"], sampler.corrector)
        signals = drive(now["t"], state)
        noises: tuple[jax.Array | None, ...] = (None,) * len(state)
        if noisy:
            # The first step walks to its own beginning as well: a walk before the loop would be compiled again.
            ends = jnp.stack([now["s"], now["s_next"]])
            walks, earlier, path_values = jax.lax.fori_loop(
                jnp.where(now["first"], 0, 1),
                2,
                lambda i, at: _walk(at[0], at[2], ends[i]),
                (walks, path_values, path_values),
            )
            length = now["s_next"] - now["s"]
            rate = jnp.where(length > 0.0, jax.lax.rsqrt(jnp.maximum(length, 1e-12)), 0.0)
            noises = drive.noise(state, tuple((b - a) * rate for a, b in zip(earlier, path_values, strict=True)))
        log_q = now["log_tau_next"] - now["log_tau"]
        moved = []
        for x, signal, old, noise, lam, driven in zip(
            state, signals, before, noises, lams, problem.components.driven, strict=True
        ):
            if lam == math.inf:
                keep, spread = jnp.zeros(()), jnp.ones(())
            else:
                keep, spread = jnp.exp(0.5 * lam**2 * log_q), jnp.sqrt(-jnp.expm1(lam**2 * log_q))
            y = (now["sigma_next"] / now["sigma"] * keep) * x
            if signal is not None:
                y = y + signal_step(now, lam, signal, old)
            if noise is not None and lam > 0.0:
                begun = problem.begun(now["t"]) if driven else 1.0
                y = y + (now["sigma_next"] * spread) * begun * noise
            moved.append(y)
        return (tuple(moved), signals if order == 2 else before, walks, path_values), None

    before: tuple[jax.Array | None, ...] = (None,) * len(state)
    if order == 2:
        shapes = jax.eval_shape(drive, times[0], state)
        before = tuple(None if d is None else jnp.zeros(d.shape, d.dtype) for d in shapes)
    walks = tuple(path.walk() for path in paths)
    origin = tuple(jnp.zeros_like(state[0]) for _ in paths)
    (state, *_), _ = jax.lax.scan(step, (state, before, walks, origin), schedule)
    return state


def _correct(problem: Problem, state: State, t: jax.Array, number: jax.Array, corrector: Langevin) -> State:
    """Langevin steps at time t, with noises that are the images' own and no part of their paths."""
    alpha, sigma, begun = problem.sde.alpha(t), problem.sde.sigma(t), problem.begun(t)
    keep = math.exp(-2.0 * corrector.snr**2)
    spread = math.sqrt(-math.expm1(-4.0 * corrector.snr**2))

    def once(k: jax.Array, state: State) -> State:
        own = stream(stream(problem.keys, _CORRECTOR), number * corrector.steps + k)
        shape = state[0].shape[1:]
        unit = tuple(BrownianPaths(stream(own, i), shape).start() for i in range(problem.components.paths))
        moved = []
        for x, signal, noise, driven in zip(
            state, problem.drive(t, state), problem.drive.noise(state, unit), problem.components.driven, strict=True
        ):
            acts = begun if driven else 1.0
            y = keep * x
            if signal is not None:
                y = y + acts * (alpha * (1.0 - keep)) * signal
            if noise is not None:
                y = y + acts * (sigma * spread) * noise
            moved.append(y)
        return tuple(moved)

    return jax.lax.fori_loop(0, corrector.steps, once, state)


def _walk(walks: tuple[Walk, ...], values: State, s: jax.Array) -> tuple[tuple[Walk, ...], State, State]:
    """The walks at s, the values of their paths before, and those there."""
    moved = [walk.to(s) for walk in walks]
    return tuple(walk for walk, _ in moved), values, tuple(value for _, value in moved)
