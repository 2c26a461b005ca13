"""The reverse process, solved: the exponential solvers, and any diffrax solver.

    (8)  dx = [f x - (1 + lam^2)/2 g^2 score] dt + lam g dW     stochasticity lam: 1 Anderson's reverse SDE, 0 the ODE
    (9)  exponential step t -> t', q = tau'/tau, p = (1 + lam^2)/2, exact where D is constant over the step:
         x' = sigma'/sigma q^(lam^2/2) x + alpha' (1 - q^p) D + sigma' sqrt(1 - q^(lam^2)) xi
         lam = 1 is DDPM's ancestral step, lam = 0 is DDIM. The last step returns D itself.
         Second order: D is extrapolated linearly in log tau from the step before (as DPM-Solver++ 2M does):
         + alpha' [(1 - q^p)/p - log(1/q)] (D - D_before) / (log tau - log tau_before)
    (10) with v = x / sqrt(alpha^2 + sigma^2), a = 1/sqrt(1 + tau), b = sqrt(tau) a, on the clock s of eq. 5 whose
         rate is R = -d(log tau)/ds:
         dv = R [-(a^2 + lam^2)/2 v + p a D] ds + lam b sqrt(R) dW(s)

Nothing here divides by alpha, so RF's t = 1 is a time like any other.

What is solved is a tuple of components that share the times: one for sampling, several for an edit. For each
component a `Drive` gives its D (None for pure noise), and its noise from the unit noises of the paths.
"""

import dataclasses
import math
from typing import Protocol

import diffrax
import jax
import jax.numpy as jnp

from sdejax.brownian import LOG_TAU_RANGE, BrownianPaths, Walk, clock, log_tau_at, stream
from sdejax.denoiser import STATIC, pytree, split_per_image
from sdejax.sampler import Exponential, Langevin, Sampler
from sdejax.sde import SDE

State = tuple[jax.Array, ...]
_CORRECTOR = 2**20  # the stream of a corrector's noises; the paths of an image have the first few
_FAR = 1000.0  # stands for an infinite |log tau|: its exponential is 0 in float32, its differences are finite


class Drive(Protocol):
    """What moves the components of a state: a callable pytree, its batch leaves marked `PerImage`."""

    def __call__(self, t: jax.Array, state: State) -> tuple[jax.Array | None, ...]:
        """D of each component at time t (), each (b, *shape), or None for a component of pure noise."""
        ...

    def noise(self, state: State, unit: State) -> tuple[jax.Array | None, ...]:
        """The noise of each component, linear in the `unit` noises of the paths, or None."""
        ...


@dataclasses.dataclass(frozen=True)
class Components:
    """What is static about a state's components.

    `stochasticity` is lam of each (infinity draws the noise afresh at every step); `paths` the number of Brownian
    paths that each image has; `driven` says which components have a D, the others are pure noise; `multiplicative`
    whether the noise depends on the state.
    """

    stochasticity: tuple[float, ...]
    driven: tuple[bool, ...] = (True,)
    paths: int = 1
    multiplicative: bool = False

    @property
    def noisy(self) -> bool:
        """Whether any component takes noise."""
        return any(lam > 0.0 for lam in self.stochasticity)


@pytree
@dataclasses.dataclass(frozen=True)
class Problem:
    """What is solved: `drive` moves the components of a state under `sde`, along the paths of `keys` (b,).

    `begin` (b, *shape), where given, is each value's own time of beginning: until then its D does not act on it.
    """

    drive: Drive
    components: Components = dataclasses.field(metadata=STATIC)
    sde: SDE = dataclasses.field(metadata=STATIC)
    keys: jax.Array
    begin: jax.Array | None = None

    def begun(self, t: jax.Array) -> jax.Array | float:
        """1 where a value has begun by time t, 0 elsewhere; a value that begins at 0 never does."""
        return 1.0 if self.begin is None else ((self.begin >= t) & (self.begin > 0.0)).astype(self.begin.dtype)

    def paths(self, shape: tuple[int, ...], depth: int, levy_area: type) -> tuple[BrownianPaths, ...]:
        """The Brownian paths of the images; only the first streams are drawn where fewer are asked for."""
        return tuple(BrownianPaths(stream(self.keys, i), shape, depth, levy_area) for i in range(self.components.paths))


def solve(problem: Problem, state: State, start: jax.Array, sampler: Sampler) -> State:
    """Integrate every component from time `start` () to the data.

    `state` holds the components at `start`, (b, *shape) each. Returns the last D of each, 0 for pure noise.
    """
    if isinstance(sampler.solver, Exponential):
        return _exponential(problem, state, start, sampler, sampler.solver.order)
    solver = sampler.solver
    if math.inf in problem.components.stochasticity:
        raise ValueError(f"solver={sampler.solver!r}: noise drawn afresh at every step needs Exponential")
    if sampler.controller is None:
        return _stepped(problem, state, sampler.times(problem.sde, start), solver)
    return _adaptive(problem, state, start, sampler.times(problem.sde, start), solver, sampler.controller)


def _log_tau(sde: SDE, t: jax.Array) -> jax.Array:
    return jnp.clip(jnp.log(sde.tau(t)), -_FAR, _FAR)


def _last(problem: Problem, t: jax.Array, state: State) -> State:
    """The last step: D itself, but for values that began after t only the share of it that is theirs."""
    share = 1.0 if problem.begin is None else _share(problem.begin, t)
    signals = problem.drive(t, state)
    return tuple(jnp.zeros_like(x) if d is None else share * d for x, d in zip(state, signals, strict=True))


def _share(begin: jax.Array, t: jax.Array) -> jax.Array:
    """The share of the last step that a value takes which began at `begin`; VE's last time t is 0."""
    return jnp.clip(begin / jnp.maximum(t, 1e-12), 0.0, 1.0)


def _depth(steps: int) -> int:
    """Halvings of the clock that resolve `steps` steps of any grid from noise levels above 0.1.

    The common grids use half the clock or less; below, steps may share a leaf of the tree, and lose a little noise.
    """
    return math.ceil(math.log2(steps)) + 4


def _exponential(problem: Problem, state: State, start: jax.Array, sampler: Sampler, order: int) -> State:
    """Eq. 9. One loop body serves every step; the last goes to tau = 0, where it returns D."""
    drive, sde, lams = problem.drive, problem.sde, problem.components.stochasticity
    times = sampler.times(sde, start)
    log_tau = _log_tau(sde, times)
    noisy = problem.components.noisy
    paths: tuple[BrownianPaths, ...] = (
        problem.paths(state[0].shape[1:], _depth(sampler.steps), diffrax.BrownianIncrement) if noisy else ()
    )
    own = None if problem.begin is None else jnp.where(problem.begin > 0.0, _log_tau(sde, problem.begin), -_FAR)
    number = jnp.arange(sampler.steps)
    gap = jnp.append(-1.0, jnp.diff(log_tau))
    schedule = {
        "t": times,
        "log_tau": log_tau,
        "log_tau_next": jnp.append(log_tau[1:], -_FAR),
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
            share = jnp.where(now["last"], _share(problem.begin, now["t"]), 1.0)
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


class _Noise(diffrax.AbstractTerm):
    """lam b sqrt(R) dW(s) of eq. 10 for image-shaped noise, which diffrax's ControlTerm refuses."""

    problem: Problem
    paths: tuple[BrownianPaths, ...]

    def vf(self, t, y, args):
        components = self.problem.components
        rate = math.sqrt(LOG_TAU_RANGE) * jnp.exp(-0.5 * jax.nn.softplus(-log_tau_at(t)))
        begun = self.problem.begun(self.problem.sde.time(jnp.exp(log_tau_at(t))))
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
                slope = slope + (0.5 * (1.0 + lam**2) * a) * problem.begun(t) * signal
            moved.append(LOG_TAU_RANGE * slope)
        return tuple(moved)

    if not problem.components.noisy:
        return diffrax.ODETerm(drift)
    levy_area = getattr(solver, "minimal_levy_area", diffrax.BrownianIncrement)
    if levy_area is diffrax.AbstractSpaceTimeLevyArea:
        levy_area = diffrax.SpaceTimeLevyArea
    return diffrax.MultiTerm(diffrax.ODETerm(drift), _Noise(problem, problem.paths(shape, depth, levy_area)))


def _scale(sde: SDE, t: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.square(sde.alpha(t)) + jnp.square(sde.sigma(t)))


def _stepped(problem: Problem, state: State, times: jax.Array, solver: diffrax.AbstractSolver) -> State:
    """A diffrax solver on the sampler's own grid."""
    terms = _terms(problem, state[0].shape[1:], _depth(len(times)), solver)
    scaled = tuple(x / _scale(problem.sde, times[0]) for x in state)
    s = clock(_log_tau(problem.sde, times))
    if len(times) > 1:

        def step(carry, interval):
            scaled, memory = carry
            s0, s1 = interval
            moved, _, _, memory, _ = solver.step(terms, s0, s1, scaled, None, memory, made_jump=False)
            advanced = s1 > s0  # a start below the smallest level has steps of length 0
            return (tuple(jnp.where(advanced, b, a) for a, b in zip(scaled, moved, strict=True)), memory), None

        memory = solver.init(terms, s[0], s[1], scaled, None)
        (scaled, _), _ = jax.lax.scan(step, (scaled, memory), (s[:-1], s[1:]))
    return _last(problem, times[-1], tuple(x * _scale(problem.sde, times[-1]) for x in scaled))


def _adaptive(
    problem: Problem,
    state: State,
    start: jax.Array,
    times: jax.Array,
    solver: diffrax.AbstractSolver,
    controller: diffrax.AbstractStepSizeController,
) -> State:
    """A diffrax solver with steps of its own choice, image by image, so that an image depends on its seed alone."""
    sde = problem.sde
    end = times[-1]
    s0, s1 = (clock(_log_tau(sde, t)) for t in (start, end))

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
        )
        assert solution.ys is not None
        ended = tuple(x[-1] * _scale(sde, end) for x in solution.ys)
        return tuple(x[0] for x in _last(alone, end, ended))

    marked, rebuild = split_per_image(problem.drive)
    return jax.vmap(lambda marked, *rest: one(rebuild([leaf[None] for leaf in marked]), *rest))(
        marked, problem.keys, problem.begin, state
    )
