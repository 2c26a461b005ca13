"""The exponential solver of the reverse process.

    (8)  dx = [f x - (1 + lam^2)/2 g^2 score] dt + lam g dW     stochasticity lam: 1 Anderson's reverse SDE, 0 the ODE
    (9)  exponential step t -> t', q = tau'/tau, p = (1 + lam^2)/2, exact if D is constant over the step:
         x' = sigma'/sigma q^(lam^2/2) x + alpha' (1 - q^p) D + sigma' sqrt(1 - q^(lam^2)) xi
         lam = 1 is DDPM's ancestral step, lam = 0 is DDIM. The last step returns D itself.
         Second order: D is extrapolated linearly in log tau from the step before (as DPM-Solver++ 2M does):
         + alpha' [(1 - q^p)/p - log(1/q)] (D - D_before) / (log tau - log tau_before)

Nothing here divides by alpha, so RF's t = 1 is a time like any other. Derivatives by the times hold the unit noises xi
fixed: a Brownian path has no derivative by time.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from sdejax.noise.brownian import Walk, clock
from sdejax.pytrees import pytree
from sdejax.solvers.langevin import Langevin
from sdejax.solvers.problem import FAR, Problem, Signals, State, log_tau_of, share_of_last


@pytree
@dataclasses.dataclass(frozen=True)
class _Schedule:
    """What eq. 9 needs of each step, (n,) each. `s` is the clock of eq. 5, `gap` is log tau - log tau_before."""

    t: jax.Array
    log_tau: jax.Array
    log_tau_next: jax.Array
    gap: jax.Array
    extrapolate: jax.Array
    number: jax.Array
    first: jax.Array
    last: jax.Array
    sigma: jax.Array
    alpha_next: jax.Array
    sigma_next: jax.Array
    s: jax.Array
    s_next: jax.Array


@dataclasses.dataclass(frozen=True)
class Exponential:
    """Eq. 9, of order 1 or 2 in the denoiser: one denoiser call a step.

    `corrector` is `Langevin()` before each step; it costs a denoiser call for each of its own steps.

    **Raises:** `ValueError` if the order is neither 1 nor 2, or the corrector is no `Langevin`.
    """

    order: Literal[1, 2] = 2
    corrector: Langevin | None = None

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or self.order not in (1, 2):
            raise ValueError(f"order={self.order}: must be 1 or 2")
        if not isinstance(self.corrector, Langevin | None):
            raise ValueError(f"corrector={self.corrector!r}: must be Langevin() or None")

    def integrate(self, problem: Problem, state: State, times: jax.Array) -> State:
        """One loop body serves every step. The last step goes to tau = 0 and returns D."""
        schedule = self.schedule(problem, times)
        paths = problem.paths(state[0].shape[1:], len(times))
        walks = tuple(path.walk() for path in paths)
        values = tuple(jnp.zeros_like(state[0]) for _ in paths)
        begin = _log_tau_of_begin(problem)

        def step(carry, now):
            state, before, walks, values = carry
            unit: State = ()
            if walks:
                # The first step walks to its own beginning as well: a walk before the loop would be compiled again.
                ends = jnp.stack([now.s, now.s_next])
                walks, earlier, values = jax.lax.fori_loop(
                    jnp.where(now.first, 0, 1),
                    2,
                    lambda i, at: _walk(at[0], at[2], ends[i]),
                    (walks, values, values),
                )
                unit = tuple((b - a) * _rate(now) for a, b in zip(earlier, values, strict=True))
            state, before, _ = self._advance(problem, state, before, now, unit, begin)
            return (state, before, walks, values), None

        start = (state, self.start(problem, state, times), walks, values)
        (state, *_), _ = jax.lax.scan(step, start, schedule)
        return state

    def schedule(self, problem: Problem, times: jax.Array) -> _Schedule:
        """What each step needs of the times."""
        sde, n = problem.sde, len(times)
        log_tau, number = log_tau_of(sde, times), jnp.arange(n)
        gap = jnp.append(-1.0, jnp.diff(log_tau))
        return _Schedule(
            t=times,
            log_tau=log_tau,
            log_tau_next=jnp.append(log_tau[1:], -FAR),
            gap=jnp.where(gap < 0.0, gap, -1.0),
            extrapolate=(number > 0) & (number < n - 1) & (gap < 0.0),
            number=number,
            first=number == 0,
            last=number == n - 1,
            sigma=sde.sigma(times),
            alpha_next=jnp.append(sde.alpha(times[1:]), 1.0),
            sigma_next=jnp.append(sde.sigma(times[1:]), 0.0),
            s=jax.lax.stop_gradient(clock(log_tau)),
            s_next=jax.lax.stop_gradient(clock(jnp.append(log_tau[1:], log_tau[-1]))),
        )

    def start(self, problem: Problem, state: State, times: jax.Array) -> Signals:
        """The D of the step before the first: zeros, which the first step does not use."""
        if self.order == 1:
            return (None,) * len(state)
        shapes = jax.eval_shape(problem.drive, times[0], state)
        return tuple(None if d is None else jnp.zeros(d.shape, d.dtype) for d in shapes)

    def step(
        self, problem: Problem, state: State, memory: Signals, now: _Schedule, steps: int
    ) -> tuple[State, Signals, Signals]:
        """One step, whose noise is looked up in the paths from their roots."""
        unit = []
        for path in problem.paths(state[0].shape[1:], steps):
            walk, earlier = path.walk().to(now.s)
            _, later = walk.to(now.s_next)
            unit.append((later - earlier) * _rate(now))
        return self._advance(problem, state, memory, now, tuple(unit), _log_tau_of_begin(problem))

    def _advance(
        self,
        problem: Problem,
        state: State,
        before: Signals,
        now: _Schedule,
        unit: State,
        begin: jax.Array | None,
    ) -> tuple[State, Signals, Signals]:
        """Eq. 9 with the unit noises of the step; `begin` is `_log_tau_of_begin`."""
        components, drive = problem.components, problem.drive
        if self.corrector is not None:
            state = self.corrector.correct(problem, state, now.t, now.number)
        signals = drive(now.t, state)
        noises: Signals = drive.noise(state, unit) if components.noisy else (None,) * len(state)
        log_q, moved = now.log_tau_next - now.log_tau, []
        for x, signal, old, noise, lam, driven in zip(
            state, signals, before, noises, components.stochasticity, components.driven, strict=True
        ):
            keep = jnp.zeros(()) if lam == math.inf else jnp.exp(0.5 * lam**2 * log_q)
            y = (now.sigma_next / now.sigma * keep) * x
            if signal is not None:
                y = y + _push(problem, now, lam, signal, old, begin)
            if noise is not None and lam > 0.0:
                begun = problem.begun(now.t) if driven else 1.0
                y = y + (now.sigma_next * _spread(lam, log_q)) * begun * noise
            moved.append(y)
        return tuple(moved), signals if self.order == 2 else before, signals


def _log_tau_of_begin(problem: Problem) -> jax.Array | None:
    """log(tau) at which each value begins; -FAR for those that never do."""
    if problem.begin is None:
        return None
    begins = problem.begin > 0.0
    return jnp.where(begins, log_tau_of(problem.sde, jnp.where(begins, problem.begin, 0.5)), -FAR)


def _push(
    problem: Problem, now: _Schedule, lam: float, signal: jax.Array, before: jax.Array | None, begin: jax.Array | None
) -> jax.Array:
    """alpha' (1 - q^p) D and its second-order term, each value from its own beginning on."""
    power = 0.5 * (1.0 + lam**2)
    since, share = now.log_tau, 1.0
    if problem.begin is not None and begin is not None:
        since = jnp.clip(begin, now.log_tau_next, now.log_tau)
        share = jnp.where(now.last, share_of_last(problem.begin, now.t), 1.0)
    weight = -jnp.expm1(power * (now.log_tau_next - since))
    push = weight * signal
    if before is not None:
        # The mean of (log tau - log tau_now) over the step, under eq. 9's exponential weight.
        lag = weight / power + (now.log_tau_next - since) + (since - now.log_tau) * weight
        push = push + jnp.where(now.extrapolate, lag, 0.0) * ((signal - before) / now.gap)
    return now.alpha_next * share * push


def _spread(lam: float, log_q: jax.Array) -> jax.Array:
    """sqrt(1 - q^(lam^2)); its derivative is 0 for a step of no length."""
    if lam == math.inf:
        return jnp.ones(())
    square = -jnp.expm1(lam**2 * log_q)
    return jnp.where(square > 0.0, jnp.sqrt(jnp.where(square > 0.0, square, 1.0)), 0.0)


def _rate(now: _Schedule) -> jax.Array:
    """1 / sqrt(s' - s) of eq. 5; 0 for a step of no length."""
    length = now.s_next - now.s
    return jnp.where(length > 0.0, jax.lax.rsqrt(jnp.maximum(length, 1e-12)), 0.0)


def _walk(walks: tuple[Walk, ...], values: State, s: jax.Array) -> tuple[tuple[Walk, ...], State, State]:
    """The walks at s, the values of their paths before, and the values there."""
    moved = [walk.to(s) for walk in walks]
    return tuple(walk for walk, _ in moved), values, tuple(value for _, value in moved)
