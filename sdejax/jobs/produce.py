"""From numbered tasks to files, over all devices of all processes. Every command that makes images calls `produce`.

The tasks are dealt to the processes in blocks. Each process opens the inputs of its next batch, lets its devices
compute, and writes what they have computed, all at the same time. Images that the folder already has are not made
again.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax

from sdejax.jobs.command import ImageCommand, RunOptions
from sdejax.jobs.formats import FORMATS, choose_format
from sdejax.jobs.job import Job
from sdejax.jobs.maker import Maker, write_errors
from sdejax.jobs.progress import JobProgress, print_error, print_json, summary
from sdejax.jobs.provenance import first_difference, image_identity, record_of
from sdejax.jobs.ranges import BATCH, NumberRange, blocks, total_size
from sdejax.jobs.sheet import write_sheet
from sdejax.jobs.sinks import Destination, Sink
from sdejax.jobs.warmup import warm_up
from sdejax.model.model import Model
from sdejax.runtime.peers import Peers
from sdejax.runtime.storage import Folder

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class _Agreement:
    """What process 0 decides for all processes.

    - `format`: how images are written.
    - `left`: the first and last number of each range that is left to do.
    - `mark`: the name of a file in the folder, by which others see that they have the same folder; "" for one process.
    - `asked`: the options of process 0 that all processes must share.
    """

    format: str
    left: list[tuple[int, int]]
    mark: str
    asked: dict[str, Any]


def produce(command: ImageCommand, model: Model, job: Job[T]) -> int:
    """Make the images of a job that the folder does not have, and a contact sheet of the first.

    **Returns:** the exit code: 2 if a task failed, 1 if another process was lost or somebody stopped this one, else 0.

    **Raises:** `ValueError` if the folder cannot be written or holds images of another job.
    """
    run = command.run
    # The batch is that of the whole job, so that what is left of it runs the same program as the rest.
    device_count = len(jax.local_devices()) * jax.process_count()
    batch = run.batch or min(BATCH, max(1, -(-job.largest // device_count)))
    if run.warmup:
        return warm_up(command, model, job, batch)
    if job.unreadable and not job.numbers:
        raise ValueError(f"nothing to do: {job.unreadable} failed")
    peers, folder = Peers(run.timeout), Folder.open(run.out)
    identity = json.loads(json.dumps({**image_identity(record_of(command, model.source)), **job.identity}))

    @functools.cache
    def sink_of(name: str) -> Sink:
        return FORMATS[name](Destination(folder, identity, run.shard_size, peers.index, peers.count))

    with folder.created("--out"), contextlib.ExitStack() as at_end:
        with write_errors(run.out):
            agreed = _agree(run, job, identity, folder, sink_of, peers)
        if agreed.mark and peers.index == 0:
            at_end.callback(folder.remove, agreed.mark)
        _check_asked(agreed.asked, _asked(run, identity), peers)
        left, sink = [NumberRange(*pair) for pair in agreed.left], sink_of(agreed.format)
        all_blocks = blocks(left, sink.block_size(batch, total_size(job.numbers)))
        progress = JobProgress(total_size(left), len(jax.local_devices()), peers, run.json)
        nothing_done = left and total_size(left) == total_size(job.numbers)
        maker = Maker(command, model, job, sink, progress, left[0].first if nothing_done else None)
        with progress, _stopped_by_sigterm(progress):
            if agreed.mark and not folder.has(agreed.mark):
                raise ValueError(f"--out={run.out!r}: process {peers.index} does not see what process 0 wrote there")
            maker.make(itertools.islice(all_blocks, peers.index, None, peers.count), batch)
            progress.end()
            peers.send(progress.report())
            hanging = _wait_for_others(progress, peers)
        failed = _finish(folder, maker, peers)
    peers.leave(soon=bool(hanging))
    return 1 if progress.stopping else 2 if failed else 0


def _asked(run: RunOptions, identity: dict[str, Any]) -> dict[str, Any]:
    """The options that all processes must share."""
    return {**identity, "batch": run.batch, "shard-size": run.shard_size}


def _agree(
    run: RunOptions,
    job: Job[T],
    identity: dict[str, Any],
    folder: Folder,
    sink_of: Callable[[str], Sink],
    peers: Peers,
) -> _Agreement:
    """What process 0 decides."""

    def decide() -> dict[str, Any]:
        folder.remove_unfinished()
        name = choose_format(folder, run.format, total_size(job.numbers))
        left = [(one.first, one.last) for one in sink_of(name).missing(job.numbers)]
        mark = folder.leave_mark() if peers.count > 1 else ""
        return dataclasses.asdict(_Agreement(name, left, mark, _asked(run, identity)))

    return _Agreement(**peers.agree("plan", decide))


def _check_asked(theirs: dict[str, Any], ours: dict[str, Any], peers: Peers) -> None:
    """**Raises:** `ValueError` if this process was started with other options than process 0."""
    if (name := first_difference(theirs, ours)) is not None:
        values = f"is {json.dumps(ours.get(name))}, and of process 0 {json.dumps(theirs.get(name))}"
        raise ValueError(f"{name}: of process {peers.index} {values}; all processes must have the same options")


@contextlib.contextmanager
def _stopped_by_sigterm(progress: JobProgress) -> Iterator[None]:
    """Let SIGTERM, which schedulers send, stop the job after the current block. A second SIGTERM ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        progress.stop("asked to stop", f"process {progress.peers.index} of {progress.peers.count} was asked to stop")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_for_others(progress: JobProgress, peers: Peers) -> list[int]:
    """Wait, as process 0, for the other processes until all have finished or none has progressed for the time limit.

    **Returns:** the processes that hang.
    """
    if peers.index > 0:
        return []
    if hanging := peers.wait_for_others():
        progress.stop(f"process {', '.join(map(str, hanging))} has made nothing for {peers.timeout} seconds")
    if not progress.stopping and (why := peers.reason_to_stop()):
        progress.stop(why)
    if progress.stopping:
        peers.stop_others(progress.stopping_elsewhere)
    return hanging


def _finish(folder: Folder, maker: Maker[T], peers: Peers) -> int:
    """Finish the job as process 0, or wait until process 0 has.

    **Returns:** how many tasks failed, as far as this process knows.
    """
    if peers.index == 0:
        with write_errors(maker.run.out):
            failed = _conclude(folder, maker, peers)
        peers.conclude()
        return failed
    # A launcher may end all processes as soon as one exits with a code other than 0. So none exits before process 0.
    if (why := peers.wait_for_conclusion(maker.progress.report())) and not maker.progress.stopping:
        maker.progress.stop(why)
    return maker.progress.failed + maker.job.unreadable


def _conclude(folder: Folder, maker: Maker[T], peers: Peers) -> int:
    """Write the manifest and the contact sheet, and print a summary of the whole run. Returns how many tasks failed."""
    job, reports = maker.job, [maker.progress.report(), *peers.reports().values()]
    found, total = summary(reports), total_size(job.numbers)
    found["failed"] += job.unreadable
    there = total - maker.progress.total + sum(report.skipped for report in reports)
    if (made := maker.sink.finish(job.numbers, whole=not job.unreadable)) is not None:
        found["images"] = made  # without the images in the unfinished shard of a process that was lost
    sheet = write_sheet(folder, job.sheet, maker.pictures, maker.sink.find_pngs)
    if there:
        print_error(f"{there} of {total} images are done already")
    if found["failed"]:
        print_error(f"{found['failed']} failed")
    if maker.run.json:
        print_json({"sheet": sheet, **found})
        return found["failed"]
    where = f", the first of them together in {sheet}" if sheet else ""
    print(f"{found['images']} images written to {folder.shown}{where}", flush=True)
    rate, outside = found["images_per_second_per_device"], found["share_outside_devices"]
    if rate is not None and outside is not None:
        print_error(f"{rate:.3g} images/s for each of {found['devices']} devices, idle {outside:.1%} of the time")
    return found["failed"]
