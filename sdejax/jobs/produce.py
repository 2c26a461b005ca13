"""From numbered tasks to files, over all devices of all processes: what every command that makes images shares.

The tasks are dealt to the processes in blocks. Each process reads what its next batch needs, gives it to its devices,
and writes what they have made, at the same time. What is in the folder already is not made again.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import json
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np
from PIL import Image

from sdejax.jobs.generate import on_every_device
from sdejax.jobs.png_folder import NOT_OF_THE_RECORD, difference, holds_pictures, of_the_image, of_the_job
from sdejax.jobs.progress import OutputClosed, Progress, summary, tell, tell_machines
from sdejax.jobs.ranges import BATCH, Span, blocks, size_of
from sdejax.jobs.shards import Row, read_manifest
from sdejax.jobs.sheet import Sheet, reduced, write_sheet
from sdejax.jobs.sinks import PictureSink, ShardSink, Sink
from sdejax.jobs.writer import Writer
from sdejax.media.images import png_bytes
from sdejax.runtime.batches import DeviceClock, chunked
from sdejax.runtime.peers import Peers, got_on
from sdejax.runtime.program_cache import kept_programs
from sdejax.runtime.sharding import image_mesh
from sdejax.runtime.storage import Folder

_FEW = 10_000  # images that are written as a PNG each, unless the format is given


@dataclasses.dataclass(frozen=True)
class Task:
    """One image to make.

    - `open()`: reads what is needed for it; raises `ValueError` or `OSError` where that is not to be had.
    - `finish(given, result)`: the picture, from what was opened and what came of it; `ValueError` where there is none.
    - `name`: that of its files. `record`: what its JSON adds to the command's. `prompt`: what an index says of it.
    """

    name: str
    seed: int
    open: Callable[[], Any]
    finish: Callable[[Any, np.ndarray], Image.Image]
    record: dict[str, Any] = dataclasses.field(default_factory=dict)
    prompt: str = ""


@dataclasses.dataclass(frozen=True)
class Job:
    """Numbered tasks. `tasks(span)` are those of a span of `numbers`, each with its number, in order.

    - `results(model, given, batch, clock)`: the results (n, *shape) of what the tasks opened, in their order, for each
      batch of n. `given` is drawn when there is room on the devices, each of which computes `batch` at once.
    - `largest`: how many tasks are computed together at most: no batch need be larger.
    - `firsts`: the first number of those that are computed together.
    - `failed(name, error)`: told of a task that comes to nothing. Without it the first image of all ends the job, if
      it is the one, as then all might; later ones are told on standard error.
    - `identity`: what tells the job from others of the same command.
    - `unread`: how many more tasks there would be, had what says them been readable. They count as failed.
    """

    numbers: Sequence[Span]
    tasks: Callable[[Span], Iterator[tuple[int, Task]]]
    results: Callable[[Any, Iterator[Any], int, DeviceClock], Iterator[np.ndarray]]
    largest: int
    firsts: Sequence[int]
    sheet: Sheet
    failed: Callable[[str, Exception], None] | None = None
    identity: dict[str, Any] = dataclasses.field(default_factory=dict)
    unread: int = 0


@dataclasses.dataclass(frozen=True)
class _Opened:
    number: int
    task: Task
    given: Any
    block: Span


def produce(command: Any, model: Any, job: Job) -> int:
    """Make the images of a job that are not there yet, and a contact sheet of the first.

    Returns the exit code: 2 where a task came to nothing, 1 where another process was lost, else 0.

    **Raises:** `ValueError` where the folder cannot be written or holds images of another job.
    """
    run, devices = command.run, len(jax.local_devices())
    # The batch is that of the whole job: what is left of it then runs the program that the rest ran.
    per_device = run.batch or min(BATCH, max(1, -(-job.largest // (devices * jax.process_count()))))
    if run.warmup:
        return _warm_up(command, model, job, per_device)
    if job.unread and not job.numbers:
        raise ValueError(f"nothing to do: {job.unread} failed")
    peers, folder = Peers(run.timeout), Folder.open(run.out)

    identity = json.loads(json.dumps({**of_the_image(of_the_job(command, model)), **job.identity}))
    asked = {**identity, "batch": run.batch, "shard-size": run.shard_size}

    @functools.cache
    def sink_for(kind: Literal["png", "tar", "parquet"]) -> Sink:
        if kind == "png":
            return PictureSink(folder)
        about = {**identity, "format": kind}
        return ShardSink(folder, kind, about, run.shard_size, peers.index, peers.count)

    def plan() -> list[Any]:
        folder.sweep()
        kind = _format(folder, run.format, size_of(job.numbers))
        left = [(span.first, span.last) for span in sink_for(kind).plan(job.numbers)]
        return [kind, left, folder.sign() if peers.count > 1 else "", asked]

    with folder.made(), contextlib.ExitStack() as at_end:
        with _writing(run.out):
            kind, left, sign, theirs = peers.agree("plan", plan)
        if sign and peers.index == 0:
            at_end.callback(folder.remove, sign)
        if (name := difference(theirs, asked)) is not None:
            told = f"is {json.dumps(asked.get(name))}, and of process 0 {json.dumps(theirs.get(name))}"
            raise ValueError(f"{name}: of process {peers.index} {told}; all must be started with the same options")
        sink = sink_for(kind)
        spans = [Span(*pair) for pair in left]
        all_blocks = blocks(spans, sink.block(per_device, size_of(job.numbers)))
        dealt = itertools.islice(all_blocks, peers.index, None, peers.count)
        progress = Progress(size_of(spans), devices, peers, run.json)
        first = spans[0].first if spans and size_of(spans) == size_of(job.numbers) else None
        maker = _Maker(command, model, job, sink, progress, first)
        with progress, _told_to_stop(progress):
            if sign and not folder.has(sign):
                raise ValueError(f"--out={run.out!r}: process {peers.index} does not see what process 0 wrote there")
            maker.make(dealt, per_device)
            progress.end()
            peers.tell(progress.report())
            hung = peers.index == 0 and not _await_others(progress, peers)
        failed = progress.failed + job.unread
        if peers.index == 0:
            with _writing(run.out):
                failed = _conclude(folder, job, sink, maker, peers)
            peers.conclude()
        else:
            # What started all may end all as soon as one ends with a code other than 0.
            if (why := peers.await_conclusion(progress.report())) and not progress.stopping:
                progress.stop(why)
    peers.leave(soon=hung)
    return 1 if progress.stopping else 2 if failed else 0


def _format(folder: Folder, asked: str | None, images: int) -> str:
    """How a job of so many images is written: as is asked, else as what the folder holds is, else as its size says.

    **Raises:** `ValueError` where pictures are asked for in a folder of shards.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return asked or ("png" if images <= _FEW or holds_pictures(folder) else "tar")
    if asked == "png":
        kind = manifest["job"]["format"]
        raise ValueError(f"--format='png': out={folder.shown!r} holds shards, and goes on with --format {kind}")
    return asked or manifest["job"]["format"]


def _warm_up(command: Any, model: Any, job: Job, batch: int) -> int:
    """Compute a batch of each kind, and keep its program but no image. Returns 2 where one cannot be opened, else 0."""
    programs = kept_programs()
    if programs is None:
        raise ValueError("--warmup, --cache='none': there is no folder to keep programs in")
    programs.once, peers = True, Peers(command.run.timeout)
    model, code, began = on_every_device(model, image_mesh(jax.local_devices())), 0, time.perf_counter()
    for first in job.firsts:
        ((_, task),) = job.tasks(Span(first, first))
        try:
            given = task.open()
        except (ValueError, OSError) as error:
            if job.failed is None:
                raise
            job.failed(task.name, error)
            code = 2
            continue
        with _memory(batch):
            for _ in job.results(model, iter([given]), batch, DeviceClock()):
                pass
    programs.once = False
    seconds, where = time.perf_counter() - began, programs.folder.shown
    size = batch * len(jax.local_devices())
    peers.leave()
    if peers.index > 0:
        return code
    if command.run.json:
        found = {"compiled": programs.compiled, "loaded": programs.loaded, "images_at_once": size}
        tell_machines({**found, "seconds": round(seconds, 3), "cache": where})
    else:
        found = f"{programs.compiled} programs compiled, {programs.loaded} there already"
        print(f"{found}, for {size} images at once, in {seconds:.1f} s: {where}", flush=True)
    return code


@contextlib.contextmanager
def _memory(batch: int) -> Iterator[None]:
    """**Raises:** `ValueError` where a batch is too large for a device's memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = str(error).partition("\n")[0]
        raise ValueError(f"--batch={batch}: is too large for the memory of a device ({said})") from None


@contextlib.contextmanager
def _writing(out: str) -> Iterator[None]:
    """**Raises:** `ValueError` where the folder cannot be written."""
    try:
        yield
    except OSError as error:
        where = f"out={out!r}: cannot be written ({error.strerror or error})"
        raise ValueError(f"{where}; what is there is kept, and the same command goes on") from None


@contextlib.contextmanager
def _told_to_stop(progress: Progress) -> Iterator[None]:
    """SIGTERM, the way of schedulers: the block under way is finished. A second one ends the process at once."""
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


class _Maker:
    """One process's share of a job. `first` is the number of the first image of all, where none was there before."""

    def __init__(self, command: Any, model: Any, job: Job, sink: Sink, progress: Progress, first: int | None):
        self.command, self.model, self.job, self.sink, self.progress = command, model, job, sink, progress
        self._first = first
        self.pictures: dict[str, Image.Image] = {}
        self._base = of_the_job(command, model)
        self._wanted = {cell for cell in job.sheet.shown if isinstance(cell, str)}

    def make(self, dealt: Iterable[Span], batch: int) -> None:
        """Compute and write the blocks, `batch` images at once on each device."""
        writer: Writer[_Opened] = Writer(self._encode, self._write)
        awaited: collections.deque[_Opened] = collections.deque()

        def given() -> Iterator[Any]:
            for item in self._opened(dealt):
                awaited.append(item)
                yield item.given

        try:
            with _memory(batch), _writing(self.command.run.out):
                for results in self.job.results(self.model, given(), batch, self.progress.clock):
                    writer.put([(awaited.popleft(), result) for result in results])
                writer.close()
                self._tell(self.sink.close())
        except BaseException:
            with contextlib.suppress(BaseException):  # what is made is written, however it ends
                writer.close()
            self.sink.abandon()
            raise

    def _opened(self, dealt: Iterable[Span]) -> Iterator[_Opened]:
        for block in dealt:
            if self.progress.stopping:
                return
            for tasks in chunked(self.job.tasks(block), BATCH):
                done = self.sink.has([(task.name, self._record(task)) for _, task in tasks])
                self.progress.skipped += sum(done)
                for number, task in (pair for pair, there in zip(tasks, done, strict=True) if not there):
                    try:
                        yield _Opened(number, task, task.open(), block)
                    except (ValueError, OSError) as error:
                        self._fail(number, task.name, error)

    def _record(self, task: Task) -> dict[str, Any]:
        return {**self._base, **task.record, "seed": task.seed}

    def _own(self, task: Task) -> dict[str, Any]:
        """What of a task's record the job has otherwise, or not: with the manifest it says all of its image."""
        named = task.record.keys() - NOT_OF_THE_RECORD - {"run"}
        own = {name: task.record[name] for name in sorted(named) if task.record[name] != self._base.get(name)}
        return {"own": own} if own else {}

    def _encode(self, item: _Opened, result: np.ndarray) -> tuple[Image.Image, bytes] | ValueError:
        try:
            image = item.task.finish(item.given, result)
        except ValueError as error:
            return error
        return image, png_bytes(image)

    def _write(self, item: _Opened, encoded: tuple[Image.Image, bytes] | ValueError) -> None:
        task = item.task
        if isinstance(encoded, ValueError):
            self._fail(item.number, task.name, encoded)
            return
        image, png = encoded
        about = {"key": task.name, "seed": task.seed, "prompt": task.prompt, **self._own(task)}
        self._tell(self.sink.add(Row(item.number, png, about), item.block, task.name, self._record(task)))
        self.progress.done += 1
        if task.name in self._wanted:
            self.pictures[task.name] = reduced(image)

    def _tell(self, rows: list[dict[str, Any]]) -> None:
        if self.command.run.json:
            try:
                for row in rows:
                    tell_machines(row)
            except OutputClosed as error:
                self.progress.stop(str(error))

    def _fail(self, number: int, name: str, error: Exception) -> None:
        if self.job.failed is None and number == self._first and not (self.progress.done or self.progress.skipped):
            raise ValueError(f"{name}: {error}")
        self.progress.failed += 1
        if self.job.failed is None:
            self.progress.say(f"error: {name}: {error}")
        else:
            self.job.failed(name, error)


def _await_others(progress: Progress, peers: Peers) -> bool:
    """Wait until the other processes are through or gone, at most the time limit while none gets on: whether so."""
    before, since = None, time.monotonic()
    while True:
        reports, gone = peers.reports(), peers.gone()
        left = [i for i in range(1, peers.count) if i not in gone and not reports.get(i, {}).get("over")]
        if not left:
            break
        now = {index: got_on(report) for index, report in reports.items()}
        if now != before:
            before, since = now, time.monotonic()
        if time.monotonic() - since > peers.timeout:
            progress.stop(f"process {', '.join(map(str, left))} has made nothing for {peers.timeout} seconds")
            break
        time.sleep(0.2)
    if not progress.stopping and (why := peers.trouble()):
        progress.stop(why)
    if progress.stopping:
        peers.end(progress.elsewhere)
    return not left


def _conclude(folder: Folder, job: Job, sink: Sink, maker: _Maker, peers: Peers) -> int:
    """The manifest, the sheet, and what there is to say of the whole run; how many tasks came to nothing."""
    reports = [maker.progress.report(), *peers.reports().values()]
    found, total = summary(reports), size_of(job.numbers)
    found["failed"] += job.unread
    there = total - maker.progress.total + sum(report["skipped"] for report in reports)
    if (made := sink.finish(job.numbers, whole=not job.unread)) is not None:
        found["images"] = made  # of a process that was lost, not those in a shard that it did not finish
    sheet = write_sheet(folder, job.sheet, maker.pictures, sink.pngs)
    if there:
        tell(f"{there} of {total} images are done already")
    if found["failed"]:
        tell(f"{found['failed']} failed")
    if maker.command.run.json:
        tell_machines({"sheet": sheet, **found})
        return found["failed"]
    where = f", the first of them together in {sheet}" if sheet else ""
    print(f"{found['images']} images written to {folder.shown}{where}", flush=True)
    rate, outside = found["images_per_second_per_device"], found["share_outside_devices"]
    if rate is not None and outside is not None:
        tell(f"{rate:.3g} images/s for each of {found['devices']} devices, idle {outside:.1%} of the time")
    return found["failed"]
