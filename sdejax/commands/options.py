"""What the verbs that make images share: their options, seeds and sampler."""

import dataclasses
import importlib.util
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from sdejax.jobs.formats import FORMATS
from sdejax.jobs.ranges import BATCH, NumberRange, total_size

if TYPE_CHECKING:
    Format = str
else:
    Format = tyro.extras.literal_type_from_choices(list(FORMATS))

if TYPE_CHECKING:
    from sdejax.solvers.sampler import Sampler


@dataclasses.dataclass(frozen=True)
class Run:
    """How a command solves, and where it writes."""

    out: str = "out"
    """The folder to write, or an fsspec address such as gs://bucket/folder: the images, and a contact sheet."""
    seeds: str = "0"
    """Seeds such as 7, 0-49999 or 0-3,8; an image is its seed."""
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
    batch_invariant: bool = False
    """Give an image the same bits in any batch, and on any number of CPU threads and devices; takes 1.1 to 1.5 times as
    long.
    """
    batch: int | None = None
    """How many images a device computes at once; by default 32, or fewer where that is enough for all."""
    format: Format | None = None
    """A PNG and a JSON for each image, or shards of many: tar as WebDataset has it, or parquet. By default PNG up to
    10,000 images, else tar.
    """
    shard_size: int | None = None
    """Images in a shard; by default 1,000, or fewer where some of several processes would else have less to do."""
    cache: str | None = None
    """The folder of compiled programs, which spares the next start most of its time; an fsspec address will do. By
    default SDEJAX_CACHE, else ~/.cache/sdejax; none for none.
    """
    warmup: bool = False
    """Compile what the job needs, into the cache, and make no image."""
    json: bool = False
    """JSON objects on standard output, for machines: one per image or shard, one for progress every 10 s."""
    coordinator: str = ""
    """host:port of process 0, where several processes share the work and their environment does not say it."""
    processes: int = 0
    """How many processes there are, with --coordinator."""
    process_id: int = -1
    """Which of them this is, from 0, with --coordinator."""
    timeout: int = 300
    """Seconds that a process waits for the others before it stops."""


_MOST = 1_000_000  # edits of one picture, which are listed as they begin

Snapshot = Annotated[Positional[str], tyro.conf.arg(metavar="SNAPSHOT")]
Picture = Annotated[Positional[str], tyro.conf.arg(metavar="PICTURE")]
OptionalPicture = Annotated[Positional[str | None], tyro.conf.arg(metavar="PICTURE")]
RunOptions = Annotated[Run, tyro.conf.arg(name="")]


def seed_ranges(text: str) -> list[NumberRange]:
    """ "7", "0-63" or "0-3,8" to ranges of seeds, in the same order.

    **Raises:** `ValueError` for anything else.
    """
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,20})\s*(?:-\s*(\d{1,20})\s*)?", part)
        seeds = NumberRange(int(match[1]), int(match[2] or match[1])) if match else NumberRange(0, -1)
        if seeds.first > seeds.last or seeds.last >= 2**32:
            raise ValueError(f"--seeds={text!r}: must be seeds from 0 to {2**32 - 1}, such as 7, 0-63 or 0-3,8")
        ranges.append(seeds)
    return ranges


def parse_seeds(text: str, one: bool = False) -> list[int]:
    """ "7", "0-63" or "0-3,8" to a list of seeds.

    **Raises:** `ValueError` for anything else, and for several where there may be only `one`.
    """
    ranges = seed_ranges(text)
    if total_size(ranges) > _MOST:
        raise ValueError(f"--seeds={text!r}: must be at most {_MOST:,} here; sample takes any number")
    if one and total_size(ranges) > 1:
        raise ValueError(f"--seeds={text!r}: must be one seed with --manifest, whose lines may have their own")
    return [seed for seeds in ranges for seed in seeds.numbers]


def check_present(command: Any, needed: dict[str, str]) -> None:
    """**Raises:** `ValueError` where an option is missing that a manifest's lines could give; by field, its name."""
    for field, name in needed.items():
        if getattr(command, field) is None:
            raise ValueError(f"{name}: is missing; it must be given, or {field!r} in each line of a --manifest")


def start(command: Any) -> None:
    """Check what no model is needed for, and join the other processes of the run, before jax touches a device.

    The programs that the same verb had last time, for this snapshot and as many images, begin to load.

    **Raises:** `ValueError` for an option outside its range.
    """
    run: Run = command.run
    from sdejax.runtime.distributed import Processes, start_processes
    from sdejax.runtime.peers import Peers

    for name in ("batch", "shard_size", "timeout"):
        if getattr(run, name) is not None and getattr(run, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}={getattr(run, name)}: must be at least 1")
    if not run.out or run.cache == "":
        raise ValueError(f"--{'cache' if run.out else 'out'}='': must be a folder or an address")
    if run.format == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ValueError("--format='parquet': needs pyarrow, which is not installed: pip install 'sdejax[data]'")
    start_processes(
        Processes("auto", run.coordinator, run.processes, run.process_id, run.timeout),
        independent=True,
        names=("--coordinator", "--processes", "--process-id"),
    )
    Peers(run.timeout).start_devices()
    images = run.batch or min(total_size(seed_ranges(run.seeds)), BATCH)
    _take_programs(run.cache, f"{type(command).__name__} {command.snapshot} {images}")


def _take_programs(cache: str | None, job: str) -> None:
    """Load what earlier commands compiled.

    **Raises:** `ValueError` where the person names a folder that cannot be made.
    """
    from sdejax.runtime.program_cache import keep_programs

    try:
        keep_programs(cache_address(cache), job)
    except ValueError:
        if cache is not None or os.environ.get("SDEJAX_CACHE"):
            raise
        # A home that cannot be written.


def cache_address(asked: str | None) -> str:
    """Where programs are kept, "none" for nowhere: as is asked, else as the environment says, else in the home."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (os.environ.get("SDEJAX_CACHE") or str(home / "sdejax")) if asked is None else asked


def make_sampler(run: Run) -> "Sampler":
    """The `Sampler` of the options.

    **Raises:** `ValueError` for an option outside its range, or one that the solver does not have.
    """
    import sdejax as sj

    if run.solver == "exponential":
        if run.tolerance is not None:
            raise ValueError(f"--tolerance={run.tolerance}: needs --solver heun or shark, which estimate their error")
        corrector = None if run.corrector is None else sj.Langevin(run.corrector)
        return sj.Sampler(run.steps, run.grid, sj.Exponential(run.order, corrector), run.stochasticity)
    if run.order != Run.order:
        raise ValueError(f"--order={run.order}: is the exponential solver's, not that of --solver {run.solver}")
    if run.corrector is not None:
        raise ValueError(f"--corrector={run.corrector}: is the exponential solver's, not that of --solver {run.solver}")
    import diffrax

    solver, controller = {"euler": diffrax.Euler, "heun": diffrax.Heun, "shark": diffrax.ShARK}[run.solver](), None
    if run.tolerance is not None:
        if run.solver == "euler":
            raise ValueError(f"--tolerance={run.tolerance}: needs --solver heun or shark, which estimate their error")
        if not 0.0 < run.tolerance < math.inf:
            raise ValueError(f"--tolerance={run.tolerance}: must be above 0 and finite")
        # float32 resolves 6e-8 of the clock: with a tolerance that needs shorter steps, an image ends as nan.
        controller = diffrax.PIDController(rtol=run.tolerance, atol=run.tolerance, dtmin=1e-7, force_dtmin=False)
    return sj.Sampler(run.steps, run.grid, sj.Diffrax(solver, controller), run.stochasticity)
