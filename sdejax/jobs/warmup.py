"""`--warmup`: compile the programs of a job before it starts."""

import time
from typing import TypeVar

import jax

from sdejax.jobs.command import ImageCommand
from sdejax.jobs.generate import on_every_device
from sdejax.jobs.job import Job
from sdejax.jobs.maker import memory_errors
from sdejax.jobs.progress import print_json
from sdejax.jobs.ranges import NumberRange
from sdejax.model.model import Model
from sdejax.runtime.batches import DeviceClock
from sdejax.runtime.peers import Peers
from sdejax.runtime.program_cache import kept_programs
from sdejax.runtime.sharding import image_mesh

T = TypeVar("T")


def warm_up(command: ImageCommand, model: Model, job: Job[T], batch: int) -> int:
    """Compute one batch of each group of tasks, and keep its programs but no image.

    **Returns:** the exit code: 2 if a group's first task cannot be opened, else 0.

    **Raises:** `ValueError` if no programs are kept, or a batch is too large for the devices.
    """
    programs = kept_programs()
    if programs is None:
        raise ValueError("--warmup, --cache='none': must have a folder to keep programs in")
    programs.once, peers = True, Peers(command.run.timeout)
    model, code, began = on_every_device(model, image_mesh(jax.local_devices())), 0, time.perf_counter()
    for first in job.firsts:
        ((_, task),) = job.tasks(NumberRange(first, first))
        try:
            inputs = task.open()
        except (ValueError, OSError) as error:
            if job.failed is None:
                raise
            job.failed(task.name, error)
            code = 2
            continue
        with memory_errors(batch):
            for _ in job.results(model, iter([inputs]), batch, DeviceClock()):
                pass
    programs.once = False
    seconds, cache = time.perf_counter() - began, programs.folder.shown
    size = batch * len(jax.local_devices())
    peers.leave()
    if peers.index > 0:
        return code
    if command.run.json:
        found = {"compiled": programs.compiled, "loaded": programs.loaded, "images_at_once": size}
        print_json({**found, "seconds": round(seconds, 3), "cache": cache})
    else:
        found = f"{programs.compiled} programs compiled, {programs.loaded} loaded"
        print(f"{found}, for {size} images at once, in {seconds:.1f} s: {cache}", flush=True)
    return code
