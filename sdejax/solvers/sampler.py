"""How the reverse process is solved: a grid, a solver and a stochasticity."""

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from sdejax.sde.base import SDE
from sdejax.solvers.exponential import Exponential
from sdejax.solvers.grids import GRIDS, GridChoice, GridName
from sdejax.solvers.solver import Solver

if TYPE_CHECKING:  # it takes half a second to import
    import diffrax

STEPS = 20


@dataclasses.dataclass(frozen=True)
class Sampler:
    """How the reverse process is solved. Frozen and hashable: static under jit, so another one compiles anew.

    **Arguments:**

    - `steps`: the number of steps, at least 1, whatever the strength. An exponential step costs one denoiser call.
    - `grid`: "log_snr", "time", "edm", a function (sde, start, steps) -> `steps` times that fall from `start`, or a
      tuple of `steps` fractions of the start that fall from 1. None is the grid of whatever is solved: "log_snr" for
      edits by two prompts (`sync_sde` and its baselines), "edm" for everything else.
    - `solver`: `Exponential(order, corrector)`, `Diffrax(solver, controller)`, or any `Solver` of your own. A diffrax
      solver alone is taken as `Diffrax(solver)`.
    - `stochasticity`: lam >= 0 of eq. 8: 1 is the reverse SDE, 0 the probability-flow ODE.

    **Raises:** `ValueError` if an argument is outside its range.
    """

    steps: int = STEPS
    grid: GridChoice | None = None
    solver: "Solver | diffrax.AbstractSolver" = Exponential()
    stochasticity: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps={self.steps!r}: must be a whole number of at least 1")
        if not 0.0 <= self.stochasticity < math.inf:
            raise ValueError(f"stochasticity={self.stochasticity}: must be at least 0 and finite")
        _check_grid(self.grid, self.steps)
        if not isinstance(self.solver, Solver):
            object.__setattr__(self, "solver", _as_solver(self.solver))

    def integrator(self) -> Solver:
        """The solver."""
        assert isinstance(self.solver, Solver)
        return self.solver

    def times(self, sde: SDE, start: jax.Array) -> jax.Array:
        """The falling times (steps,) at which the denoiser is called, from `start` on."""
        if isinstance(self.grid, tuple):
            return start * jnp.asarray(self.grid, jnp.float32)
        grid = GRIDS[self.grid or "edm"] if isinstance(self.grid, str | None) else self.grid
        return grid(sde, start, self.steps)


def with_grid(sampler: Sampler | None, grid: GridName) -> Sampler:
    """The sampler, by default `Sampler()`, with `grid` if it names none."""
    sampler = Sampler() if sampler is None else sampler
    return dataclasses.replace(sampler, grid=grid) if sampler.grid is None else sampler


def _check_grid(grid: Any, steps: int) -> None:
    if isinstance(grid, str) and grid not in GRIDS:
        raise ValueError(f"grid={grid!r}: must be one of {', '.join(GRIDS)}, a function or a tuple")
    if isinstance(grid, tuple):
        falling = all(a > b for a, b in itertools.pairwise(grid))
        if len(grid) != steps or grid[0] != 1.0 or not falling or grid[-1] <= 0.0:
            raise ValueError(f"grid={grid}: a tuple must hold steps={steps} fractions, falling from 1 and above 0")
    elif grid is not None and not isinstance(grid, str) and not callable(grid):
        raise ValueError(f"grid={grid!r}: must be one of {', '.join(GRIDS)}, a function or a tuple")


def _as_solver(solver: Any) -> Solver:
    """**Raises:** `ValueError` unless it is a diffrax solver."""
    import diffrax

    if not isinstance(solver, diffrax.AbstractSolver):
        allowed = "Exponential(order), Diffrax(solver), a diffrax solver, or any object with integrate"
        raise ValueError(f"solver={solver!r}: must be {allowed}")
    from sdejax.solvers.diffrax_solver import Diffrax

    return Diffrax(solver)
