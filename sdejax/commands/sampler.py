"""The `Sampler` that the options of a command describe."""

import math
from typing import TYPE_CHECKING

from sdejax.commands.options import Run

if TYPE_CHECKING:
    from sdejax.solvers.diffrax_solver import Diffrax
    from sdejax.solvers.sampler import Sampler


def make_sampler(run: Run) -> "Sampler":
    """The `Sampler` of the options.

    **Raises:** `ValueError` for an option that is outside its range, or that the solver does not have.
    """
    import sdejax as sj

    if run.solver != "exponential":
        return sj.Sampler(run.steps, run.grid, _diffrax_solver(run), run.stochasticity)
    if run.tolerance is not None:
        raise ValueError(f"--tolerance={run.tolerance}: needs --solver heun or shark, which estimate their error")
    corrector = None if run.corrector is None else sj.Langevin(run.corrector)
    return sj.Sampler(run.steps, run.grid, sj.Exponential(run.order, corrector), run.stochasticity)


def _diffrax_solver(run: Run) -> "Diffrax":
    if run.order != Run.order:
        raise ValueError(f"--order={run.order}: is an option of --solver exponential, not of {run.solver}")
    if run.corrector is not None:
        raise ValueError(f"--corrector={run.corrector}: is an option of --solver exponential, not of {run.solver}")
    import diffrax

    import sdejax as sj

    solver, controller = {"euler": diffrax.Euler, "heun": diffrax.Heun, "shark": diffrax.ShARK}[run.solver](), None
    if run.tolerance is not None:
        if run.solver == "euler":
            raise ValueError(f"--tolerance={run.tolerance}: needs --solver heun or shark, which estimate their error")
        if not 0.0 < run.tolerance < math.inf:
            raise ValueError(f"--tolerance={run.tolerance}: must be above 0 and finite")
        # float32 resolves 6e-8 of the clock. If a tolerance needs shorter steps than that, the image ends as nan.
        controller = diffrax.PIDController(rtol=run.tolerance, atol=run.tolerance, dtmin=1e-7, force_dtmin=False)
    return sj.Diffrax(solver, controller)
