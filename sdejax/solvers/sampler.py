"""Which steps are taken, and how: time grids and the `Sampler`."""

import dataclasses
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from sdejax.sde.base import SDE

if TYPE_CHECKING:  # half a second to import, which a program that is compiled already need not wait for
    import diffrax
from sdejax.solvers.exponential import Exponential
from sdejax.solvers.grids import _GRIDS, GridChoice
from sdejax.solvers.langevin import Langevin


@dataclasses.dataclass(frozen=True)
class Sampler:
    """How the reverse process is solved. Frozen and hashable: static under jit, so another one compiles anew.

    **Arguments:**

    - `steps`: the number of steps, at least 1, whatever the strength. An exponential step costs one denoiser call.
    - `grid`: "log_snr", "time", "edm", your own function (sde, start, steps) -> `steps` falling times that begin at
      `start`, or a tuple of `steps` fractions of the start that fall from 1.
    - `solver`: `Exponential(1)` or `Exponential(2)`, or any diffrax solver (eq. 10).
    - `stochasticity`: lam >= 0 of eq. 8.
    - `controller`: a diffrax step size controller; the steps of a diffrax solver are then chosen for each image,
      starting from the length that `steps` equal ones would have. An image whose steps come to no end is nan.
    - `corrector`: `Langevin()` before each exponential step; costs a denoiser call for each of its own steps.

    **Raises:** `ValueError` where an argument is outside its range.
    """

    steps: int = 50
    grid: GridChoice = "log_snr"
    solver: "Exponential | diffrax.AbstractSolver" = Exponential()
    stochasticity: float = 1.0
    controller: "diffrax.AbstractStepSizeController | None" = None
    corrector: Langevin | None = None

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps={self.steps}: must be a whole number of at least 1")
        if not 0.0 <= self.stochasticity < math.inf:
            raise ValueError(f"stochasticity={self.stochasticity}: must be at least 0 and finite")
        if isinstance(self.grid, str) and self.grid not in _GRIDS:
            raise ValueError(f"grid={self.grid!r}: must be one of {', '.join(_GRIDS)}, a function or a tuple")
        if not isinstance(self.solver, Exponential):
            import diffrax

            if not isinstance(self.solver, diffrax.AbstractSolver):
                raise ValueError(f"solver={self.solver!r}: must be Exponential(1), Exponential(2) or a diffrax solver")
        if self.controller is not None and isinstance(self.solver, Exponential):
            raise ValueError("controller: adaptive steps need a diffrax solver, not Exponential")
        if self.corrector is not None and not isinstance(self.solver, Exponential):
            raise ValueError(f"corrector={self.corrector}: needs solver=Exponential(1) or Exponential(2)")
        if isinstance(self.grid, tuple):
            falling = all(a > b for a, b in zip(self.grid, self.grid[1:], strict=False))
            if len(self.grid) != self.steps or self.grid[0] != 1.0 or not falling or self.grid[-1] <= 0.0:
                raise ValueError(
                    f"grid={self.grid}: a tuple must hold steps={self.steps} fractions, falling from 1 and above 0"
                )

    def times(self, sde: SDE, start: jax.Array) -> jax.Array:
        """The falling times (steps,) at which the denoiser is called, from `start` on."""
        if isinstance(self.grid, tuple):
            return start * jnp.asarray(self.grid, jnp.float32)
        grid = _GRIDS[self.grid] if isinstance(self.grid, str) else self.grid
        return grid(sde, start, self.steps)
