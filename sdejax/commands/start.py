"""How a verb that makes images starts: other processes, devices, kept programs, batch invariance."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from sdejax.batch_invariance import batch_invariant
from sdejax.commands.options import Run
from sdejax.commands.seeds import seed_ranges
from sdejax.jobs.ranges import BATCH, total_size


@contextlib.contextmanager
def started(verb: str, snapshot: str, run: Run) -> Iterator[None]:
    """Start a verb. What it computes within this context is batch-invariant if the person asked for it.

    It joins the other processes of the run before jax touches a device. Then a thread begins to load the programs that
    the same verb used last time for this snapshot and as many images. So load the libraries of networks only within.

    **Raises:** `ValueError` for an option outside its range.
    """
    _check(run)
    from sdejax.runtime.distributed import Processes, start_processes
    from sdejax.runtime.peers import Peers

    start_processes(
        Processes("auto", run.coordinator, run.processes, run.process_id, run.timeout),
        independent=True,
        names=("--coordinator", "--processes", "--process-id"),
    )
    Peers(run.timeout).start_devices()
    images = run.batch or min(total_size(seed_ranges(run.seeds)), BATCH)
    _keep_programs(run.cache, f"{verb} {snapshot} {images}{' batch-invariant' * run.batch_invariant}")
    with batch_invariant(run.batch_invariant):
        yield


def _check(run: Run) -> None:
    """**Raises:** `ValueError` for an option outside its range that needs no model to be checked."""
    for name, value in {"--batch": run.batch, "--shard-size": run.shard_size, "--timeout": run.timeout}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    for name, value in {"--out": run.out, "--cache": run.cache}.items():
        if value == "":
            raise ValueError(f"{name}='': must be a folder or an address")
    if run.format == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ValueError("--format='parquet': needs pyarrow, which is not installed: pip install 'sdejax[data]'")


def _keep_programs(cache: str | None, job: str) -> None:
    """Load and keep compiled programs.

    **Raises:** `ValueError` if the person names a folder that cannot be written.
    """
    from sdejax.runtime.program_cache import keep_programs

    try:
        keep_programs(cache_address(cache), job)
    except ValueError:
        if cache is not None or os.environ.get("SDEJAX_CACHE"):
            raise
        # The home folder cannot be written, and nobody asked for programs to be kept there.


def cache_address(asked: str | None) -> str:
    """The folder or address of kept programs: what the person asked for, else SDEJAX_CACHE, else the home folder's.

    "none" keeps no programs.
    """
    if asked is not None:
        return asked
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return os.environ.get("SDEJAX_CACHE") or str(home / "sdejax")
