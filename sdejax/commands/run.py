"""What the verbs that make images share: their options, seeds and sampler."""

import dataclasses
import math
import re
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional


@dataclasses.dataclass(frozen=True)
class Run:
    """How a command solves, and where it writes."""

    out: str = "out"
    """The folder to write: one PNG per seed with its JSON, and a contact sheet."""
    seeds: str = "0"
    """Seeds such as 7, 0-63 or 0-3,8; an image is its seed."""
    steps: int = 20
    """Solver steps, at least 1."""
    stochasticity: float = 1.0
    """1 solves the reverse SDE, 0 the probability-flow ODE."""
    grid: Literal["log_snr", "time", "edm"] = "edm"
    """Where the steps lie."""
    order: Literal[1, 2] = 2
    """Order of the exponential solver."""
    solver: Literal["exponential", "euler", "heun", "shark"] = "exponential"
    """exponential or euler, an evaluation a step; diffrax's heun, or its stochastic Runge-Kutta method shark, two."""
    tolerance: float | None = None
    """Steps of heun or shark as long as this error in a step allows, such as 0.01, for each image."""
    corrector: float | None = None
    """Signal-to-noise ratio of a Langevin step before each step, such as 0.16; costs a second evaluation."""
    batch: int = 32
    """How many images are computed at once."""
    json: bool = False
    """One JSON object per image on standard output, for machines."""


Snapshot = Annotated[Positional[str], tyro.conf.arg(metavar="SNAPSHOT")]
Picture = Annotated[Positional[str], tyro.conf.arg(metavar="PICTURE")]
OptionalPicture = Annotated[Positional[str | None], tyro.conf.arg(metavar="PICTURE")]
RunOptions = Annotated[Run, tyro.conf.arg(name="")]


def parse_seeds(text: str, one: bool = False) -> list[int]:
    """ "7", "0-63" or "0-3,8" to seeds.

    **Raises:** `ValueError` for anything else, and for several where there may be only `one`.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if first > last or last >= 2**32:
            raise ValueError(f"--seeds={text!r}: must be seeds from 0 to {2**32 - 1}, such as 7, 0-63 or 0-3,8")
        seeds.extend(range(first, last + 1))
    if one and len(seeds) > 1:
        raise ValueError(f"--seeds={text!r}: must be one seed with --manifest, whose lines may have their own")
    return seeds


def check_present(command: Any, needed: dict[str, str]) -> None:
    """**Raises:** `ValueError` where an option is missing that a manifest's lines could give; by field, its name."""
    for field, name in needed.items():
        if getattr(command, field) is None:
            raise ValueError(f"{name}: is missing; it must be given, or {field!r} in each line of a --manifest")


def make_sampler(run: Run) -> Any:
    """The `Sampler` of the options.

    **Raises:** `ValueError` for an option outside its range, or one that the solver does not have.
    """
    import diffrax

    import sdejax as sj

    if run.batch < 1:
        raise ValueError(f"--batch={run.batch}: must be at least 1")
    corrector = None if run.corrector is None else sj.Langevin(run.corrector)
    solver, controller = sj.Exponential(run.order), None
    if run.solver != "exponential":
        if run.order != Run.order:
            raise ValueError(f"--order={run.order}: is the exponential solver's, not that of --solver {run.solver}")
        solver = {"euler": diffrax.Euler, "heun": diffrax.Heun, "shark": diffrax.ShARK}[run.solver]()
    if run.tolerance is not None:
        if run.solver not in ("heun", "shark"):
            raise ValueError(f"--tolerance={run.tolerance}: needs --solver heun or shark, which estimate their error")
        if not 0.0 < run.tolerance < math.inf:
            raise ValueError(f"--tolerance={run.tolerance}: must be above 0 and finite")
        controller = diffrax.PIDController(rtol=run.tolerance, atol=run.tolerance)
    return sj.Sampler(run.steps, run.grid, solver, run.stochasticity, controller, corrector)
