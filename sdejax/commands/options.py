"""The options that the verbs that make images share."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro
from tyro.conf import Positional

from sdejax.jobs.formats import FORMATS

if TYPE_CHECKING:
    Format = str
else:
    Format = tyro.extras.literal_type_from_choices(list(FORMATS))

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Run:
    """How a command solves, and where it writes."""

    out: str = "out"
    """The folder to write to, or an fsspec address such as gs://bucket/folder."""
    seeds: str = "0"
    """Seeds, such as 7, 0-49999 or 0-3,8. Each seed is an image of its own."""
    steps: int = 20
    """The number of solver steps, at least 1."""
    stochasticity: float = 1.0
    """1 solves the reverse SDE, 0 the probability-flow ODE."""
    grid: Literal["log_snr", "time", "edm"] = "edm"
    """How the steps are spaced: evenly in log-SNR, evenly in time, or as in EDM."""
    order: Literal[1, 2] = 2
    """The order of the exponential solver."""
    solver: Literal["exponential", "euler", "heun", "shark"] = "exponential"
    """exponential and euler evaluate the network once per step.
    diffrax's heun and its stochastic Runge-Kutta method shark evaluate it twice.
    """
    tolerance: float | None = None
    """With --solver heun or shark: choose the steps of each image by this error of a step, such as 0.01."""
    corrector: float | None = None
    """Take a Langevin step with this signal-to-noise ratio, such as 0.16, before each step.
    It costs a second evaluation.
    """
    batch_invariant: bool = False
    """Give an image the same bits in any batch and on any number of CPU threads and devices.
    It takes 1.1 to 1.5 times as long.
    """
    batch: int | None = None
    """How many images a device computes at once. By default 32, or fewer if the job has fewer."""
    format: Format | None = None
    """png writes a PNG and a JSON file for each image.
    tar and parquet write shards of many images. WebDataset reads the tars.
    By default png for up to 10,000 images, else tar.
    """
    shard_size: int | None = None
    """How many images a shard holds. By default 1,000, or fewer if several processes share a small job."""
    cache: str | None = None
    """The folder or fsspec address of compiled programs, which make the next start much faster.
    By default SDEJAX_CACHE, else ~/.cache/sdejax. "none" keeps no programs.
    """
    warmup: bool = False
    """Compile the programs of this job into the cache, and make no image."""
    json: bool = False
    """Print JSON on standard output, for other programs: an object for each image or shard, and every 10 s."""
    coordinator: str = ""
    """host:port of process 0, if several processes share the job and their environment does not name it."""
    processes: int = 0
    """With --coordinator: the number of processes."""
    process_id: int = -1
    """With --coordinator: the index of this process, from 0."""
    timeout: int = 300
    """How many seconds a process waits for the others before it stops."""


Snapshot = Annotated[Positional[str], tyro.conf.arg(metavar="SNAPSHOT")]
OptionalPicture = Annotated[Positional[str | None], tyro.conf.arg(metavar="PICTURE")]
FlatRun = Annotated[Run, tyro.conf.arg(name="")]  # a field of this type also has the metadata `arguments.FLAT`


def required(value: T | None, name: str, field: str) -> T:
    """The value of an option that must be given, unless each line of a list of edits gives it.

    **Arguments:**

    - `name`: what the person calls the option, such as --source. `field`: its name in a line of a list.

    **Raises:** `ValueError` if it is None.
    """
    if value is None:
        raise ValueError(f"{name}: is missing; it must be given, or {field!r} in each line of a --manifest")
    return value
