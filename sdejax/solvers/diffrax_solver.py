"""Any diffrax solver as a solver of the reverse process (eq. 10, in `diffrax_terms`)."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from sdejax.noise.brownian import clock
from sdejax.pytrees import split_per_image
from sdejax.solvers.problem import Problem, Signals, State, last_step, log_tau_of

if TYPE_CHECKING:  # it takes half a second to import
    import diffrax

_MAX_STEPS = 100_000
_ADAPTIVE_DEPTH = 16  # halvings of the clock: they resolve steps of 1.5e-5


@dataclasses.dataclass(frozen=True)
class Diffrax:
    """A diffrax solver, such as `Diffrax(diffrax.Heun())`, on the sampler's grid or with steps of its own.

    - `controller`: a diffrax step size controller. The steps are then chosen for each image by itself, so that an image
      depends on its seed alone. The first has the length that the grid's would have if they were equal. An image whose
      steps come to no end, in 100,000 or with the controller's shortest, is nan.
    - `adjoint`: how derivatives go through a solve with a controller, a diffrax adjoint. By default reverse mode works;
      `diffrax.DirectAdjoint()` is for forward mode as well. On the grid both modes work.

    **Raises:** `ValueError` if a field is not diffrax's.
    """

    solver: "diffrax.AbstractSolver"
    controller: "diffrax.AbstractStepSizeController | None" = None
    adjoint: "diffrax.AbstractAdjoint | None" = None

    def __post_init__(self) -> None:
        import diffrax

        kinds = {
            "solver": diffrax.AbstractSolver,
            "controller": diffrax.AbstractStepSizeController,
            "adjoint": diffrax.AbstractAdjoint,
        }
        for name, kind in kinds.items():
            value = getattr(self, name)
            if not isinstance(value, kind) and (value is not None or name == "solver"):
                raise ValueError(f"{name}={value!r}: must be a diffrax {name}")

    def integrate(self, problem: Problem, state: State, times: jax.Array) -> State:
        """On the grid `times` (n,), or from its first to its last with a controller; then the last step, which is D."""
        _check_memory(self, problem)
        if self.controller is not None:
            return self._adaptive(problem, state, times)
        from sdejax.solvers.diffrax_terms import scale_of, terms_of

        sde = problem.sde
        terms = terms_of(problem, state[0].shape[1:], len(times), self.solver)
        scaled = tuple(x / scale_of(sde, times[0]) for x in state)
        s = clock(log_tau_of(sde, times))
        if len(times) > 1:

            def step(carry, interval):
                scaled, memory = carry
                return self._one(terms, scaled, memory, *interval), None

            memory = self.solver.init(terms, s[0], s[1], scaled, None)
            (scaled, _), _ = jax.lax.scan(step, (scaled, memory), (s[:-1], s[1:]))
        return last_step(problem, times[-1], tuple(x * scale_of(sde, times[-1]) for x in scaled))

    def _one(self, terms: Any, scaled: State, memory: Any, s0: jax.Array, s1: jax.Array) -> tuple[State, Any]:
        """A step on the clock, by diffrax's `step`: no step size controller, no checks on the host."""
        solver = _differentiable(self.solver)
        moved, _, _, memory, _ = solver.step(terms, s0, s1, scaled, None, memory, made_jump=False)
        advanced = s1 > s0  # a start below the smallest level has steps of length 0
        return tuple(jnp.where(advanced, b, a) for a, b in zip(scaled, moved, strict=True)), memory

    def _adaptive(self, problem: Problem, state: State, times: jax.Array) -> State:
        import diffrax

        from sdejax.solvers.diffrax_terms import scale_of, terms_of

        sde, first, last = problem.sde, times[0], times[-1]
        s0, s1 = (clock(log_tau_of(sde, t)) for t in (first, last))
        controller, adjoint = self.controller, self.adjoint or diffrax.RecursiveCheckpointAdjoint()
        assert controller is not None

        def one(drive, key, begin, state):
            alone = dataclasses.replace(
                problem,
                drive=drive,
                keys=key[None],
                begin=None if begin is None else begin[None],
                depth=problem.depth or _ADAPTIVE_DEPTH,
            )
            state = tuple(x[None] for x in state)
            solution = diffrax.diffeqsolve(
                terms_of(alone, state[0].shape[1:], len(times), self.solver),
                self.solver,
                s0,
                s1,
                (s1 - s0) / len(times),
                tuple(x / scale_of(sde, first) for x in state),
                stepsize_controller=controller,
                max_steps=_MAX_STEPS,
                throw=False,
                adjoint=adjoint,
            )
            assert solution.ts is not None and solution.ys is not None
            # Judged by the time and not by diffrax's result, which fails a last step that proposes too short a next
            # one.
            arrived = solution.ts[-1] >= s1
            ended = tuple(jnp.where(arrived, x[-1] * scale_of(sde, last), jnp.nan) for x in solution.ys)
            return tuple(x[0] for x in last_step(alone, last, ended))

        marked, rebuild = split_per_image(problem.drive)
        return jax.vmap(lambda marked, *rest: one(rebuild([leaf[None] for leaf in marked]), *rest))(
            marked, problem.keys, problem.begin, state
        )

    def schedule(self, problem: Problem, times: jax.Array) -> dict[str, jax.Array]:
        """The time of each step and of the next, on the clock as well."""
        if self.controller is not None:
            raise ValueError(f"on_step: a solver whose steps its controller chooses, {self!r}, has no common steps")
        s = clock(log_tau_of(problem.sde, times))
        last = jnp.arange(len(times)) == len(times) - 1
        return {
            "t": times,
            "t_next": jnp.append(times[1:], times[-1]),
            "s": s,
            "s_next": jnp.append(s[1:], s[-1]),
            "last": last,
        }

    def start(self, problem: Problem, state: State, times: jax.Array) -> None:
        """No memory: each step starts anew, so a solver that would reuse its last evaluation makes one more."""

    def step(self, problem: Problem, state: State, memory: None, now: Any, steps: int) -> tuple[State, None, Signals]:
        """One step, in the state's own scale; the last one returns D."""
        from sdejax.solvers.diffrax_terms import scale_of, terms_of

        _check_memory(self, problem)
        signals = problem.drive(now["t"], state)
        terms = terms_of(problem, state[0].shape[1:], steps, self.solver)
        scaled = tuple(x / scale_of(problem.sde, now["t"]) for x in state)
        fresh = self.solver.init(terms, now["s"], now["s_next"], scaled, None)
        moved, _ = self._one(terms, scaled, fresh, now["s"], now["s_next"])
        ended = last_step(problem, now["t"], state, signals)
        out = tuple(
            jnp.where(now["last"], d, x * scale_of(problem.sde, now["t_next"]))
            for d, x in zip(ended, moved, strict=True)
        )
        return out, None, signals


def _differentiable(solver: "diffrax.AbstractSolver") -> "diffrax.AbstractSolver":
    """The solver with a loop over its stages that both modes of derivatives go through; diffrax's has no forward mode.

    diffrax's adjoints choose it in the same way. The numbers are the same to the last bit.
    """
    import diffrax

    if isinstance(solver, diffrax.AbstractRungeKutta) and solver.scan_kind is None:
        return dataclasses.replace(solver, scan_kind="bounded")
    if isinstance(solver, diffrax.AbstractSRK) and solver.scan_kind is None:
        return dataclasses.replace(solver, scan_kind="lax")
    return solver


def _check_memory(solver: Diffrax, problem: Problem) -> None:
    """**Raises:** `ValueError` if a noise is drawn afresh at every step, which has no limit as steps get shorter."""
    if math.inf in problem.components.stochasticity:
        raise ValueError(f"solver={solver.solver!r}: noise drawn afresh at every step needs Exponential")
