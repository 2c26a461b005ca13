"""From numbered tasks to files, over all devices of all processes: what every command that makes images shares.

The tasks are dealt to the processes in blocks. Each process reads what its next batch needs, gives it to its devices,
and writes what they have made, at the same time. What is in the folder already is not made again.
"""

import contextlib
import dataclasses
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from sdejax.generate import in_batches, on_every_device
from sdejax.images import png_bytes
from sdejax.parallel import image_mesh
from sdejax.peers import Peers
from sdejax.pictures import of_the_image, of_the_job
from sdejax.programs import kept_programs
from sdejax.progress import Progress, summary, tell
from sdejax.shards import Row, read_manifest
from sdejax.sheet import Sheet, reduced, write_sheet
from sdejax.sinks import PictureSink, ShardSink, Sink
from sdejax.spans import Span, blocks, size_of
from sdejax.storage import Folder
from sdejax.writing import Writer

_FEW = 10_000  # images that are written as a PNG each, unless the format is given


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """What one program computes for any number of tasks at once.

    - `compute(model, mesh, given)`: the results (n, *shape), not awaited, of what n tasks opened; the mesh's size
      divides n, and the model is on all of it.
    - `finish(given, result)`: the picture of one. It raises `ValueError` where there is none.
    """

    compute: Callable[[Any, Mesh, list[Any]], jax.Array]
    finish: Callable[[Any, np.ndarray], Image.Image]


@dataclasses.dataclass(frozen=True)
class Task:
    """One image to make.

    `name` is that of its files, `record` what its JSON adds to the command's, `prompt` what an index says of it, and
    `open` reads what its work needs; it raises `ValueError` or `OSError` where that is not to be had.
    """

    name: str
    seed: int
    work: Work
    open: Callable[[], Any]
    record: dict[str, Any] = dataclasses.field(default_factory=dict)
    prompt: str = ""


@dataclasses.dataclass(frozen=True)
class Job:
    """Numbered tasks. `tasks(span)` are those of a span of `numbers`, each with its number, in order.

    - `largest`: how many tasks share a `Work` at most: no batch need be larger.
    - `firsts`: the first number of each `Work`.
    - `failed(name, error)`: told of a task that comes to nothing; without it that ends the job.
    - `identity`: what tells the job from others of the same command.
    """

    numbers: Sequence[Span]
    tasks: Callable[[Span], Iterator[tuple[int, Task]]]
    largest: int
    firsts: Sequence[int]
    sheet: Sheet
    failed: Callable[[str, Exception], None] | None = None
    identity: dict[str, Any] = dataclasses.field(default_factory=dict)


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
    run, mesh = command.run, image_mesh(jax.local_devices())
    # The batch is that of the whole job: what is left of it then runs the program that the rest ran.
    per_device = min(run.batch, max(1, -(-job.largest // (mesh.size * jax.process_count()))))
    if run.warmup:
        return _warm_up(command, model, job, mesh, per_device * mesh.size)
    peers, folder = Peers(run.timeout), Folder.open(run.out)
    with folder.made():
        kind = run.format or ("png" if size_of(job.numbers) <= _FEW else "tar")
        sink: Sink = PictureSink(folder)
        if kind != "png":
            identity = {**of_the_image(of_the_job(command, model)), **job.identity, "format": kind}
            sink = ShardSink(folder, kind, identity, run.shard_size, peers.index == 0)
        left = peers.agree("plan", lambda: [(span.first, span.last) for span in sink.plan(job.numbers)])
        if kind != "png" and read_manifest(folder) is None:
            raise ValueError(f"--out={run.out!r}: process {peers.index} does not see what process 0 wrote there")
        spans = [Span(*pair) for pair in left]
        dealt = list(blocks(spans, sink.block(per_device)))[peers.index :: peers.count]
        maker = _Maker(command, model, job, sink, Progress(size_of(spans), mesh.size, peers, run.json))
        with maker.progress, _told_to_stop(maker.progress):
            maker.make(mesh, dealt, per_device * mesh.size)
            maker.progress.over = True
            peers.tell(maker.progress.report())
            if peers.index == 0:
                _await_others(maker.progress, peers)
        if peers.index == 0:
            _conclude(folder, job, sink, maker, peers)
    peers.leave()
    return 1 if maker.progress.stopping else 2 if maker.progress.failed else 0


def _warm_up(command: Any, model: Any, job: Job, mesh: Mesh, size: int) -> int:
    """Compute a batch of each work, and keep its program but no image. Returns 2 where one cannot be opened, else 0."""
    programs = kept_programs()
    if programs is None:
        raise ValueError("--warmup, --cache='none': there is no folder to keep programs in")
    programs.once, peers = True, Peers(command.run.timeout)
    model, code, began = on_every_device(model, mesh), 0, time.perf_counter()
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
        jax.block_until_ready(task.work.compute(model, mesh, [given] * size))
    programs.once = False
    seconds, where = time.perf_counter() - began, programs.folder.shown
    peers.leave()
    if peers.index > 0:
        return code
    if command.run.json:
        found = {"compiled": programs.compiled, "loaded": programs.loaded, "images_at_once": size}
        print(json.dumps({**found, "seconds": round(seconds, 3), "cache": where}), flush=True)
    else:
        found = f"{programs.compiled} programs compiled, {programs.loaded} there already"
        print(f"{found}, for {size} images at once, in {seconds:.1f} s: {where}", flush=True)
    return code


@contextlib.contextmanager
def _told_to_stop(progress: Progress) -> Iterator[None]:
    """SIGTERM, the way of schedulers: the block under way is finished. A second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        progress.stop("asked to stop")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Maker:
    """One process's share of a job."""

    def __init__(self, command: Any, model: Any, job: Job, sink: Sink, progress: Progress):
        self.command, self.model, self.job, self.sink, self.progress = command, model, job, sink, progress
        self.pictures: dict[str, Image.Image] = {}
        self._base = of_the_job(command, model)
        self._wanted = {cell for cell in job.sheet.shown if isinstance(cell, str)}

    def make(self, mesh: Mesh, dealt: Sequence[Span], size: int) -> None:
        """Compute and write the blocks, in batches of `size`."""
        writer: Writer[_Opened] = Writer(self._encode, self._write)
        try:
            chunks = self._chunks(on_every_device(self.model, mesh), mesh, dealt, size)
            for items, results in in_batches(chunks, size, self.progress.clock):
                writer.put(zip(items, results, strict=True))
            writer.close()
            self._tell(self.sink.close())
        except BaseException as error:
            with contextlib.suppress(BaseException):  # what is made is written, however it ends
                writer.close()
            self.sink.abandon()
            if isinstance(error, OSError):
                where = f"out={self.command.run.out!r}: cannot be written ({error.strerror or error})"
                raise ValueError(f"{where}; what is there is kept, and the same command goes on") from None
            raise

    def _chunks(self, model: Any, mesh: Mesh, dealt: Sequence[Span], size: int) -> Iterator[Any]:
        """The opened tasks in batches of one work each, and what computes them."""
        ready: list[_Opened] = []

        def batch() -> tuple[list[_Opened], Callable[[list[_Opened]], jax.Array]]:
            work, items = ready[0].task.work, list(ready)
            ready.clear()
            return items, lambda items: work.compute(model, mesh, [item.given for item in items])

        for item in self._opened(dealt):
            if ready and item.task.work is not ready[0].task.work:
                yield batch()
            ready.append(item)
            if len(ready) == size:
                yield batch()
        if ready:
            yield batch()

    def _opened(self, dealt: Sequence[Span]) -> Iterator[_Opened]:
        for block in dealt:
            if self.progress.stopping:
                return
            for number, task in self.job.tasks(block):
                try:
                    if self.sink.has(task.name, self._record(task)):
                        self.progress.skipped += 1
                        continue
                    yield _Opened(number, task, task.open(), block)
                except (ValueError, OSError) as error:
                    self._fail(task.name, error)

    def _record(self, task: Task) -> dict[str, Any]:
        return {**self._base, **task.record, "seed": task.seed}

    def _encode(self, item: _Opened, result: np.ndarray) -> tuple[Image.Image, bytes] | ValueError:
        try:
            image = item.task.work.finish(item.given, result)
        except ValueError as error:
            return error
        return image, png_bytes(image)

    def _write(self, item: _Opened, encoded: tuple[Image.Image, bytes] | ValueError) -> None:
        task = item.task
        if isinstance(encoded, ValueError):
            self._fail(task.name, encoded)
            return
        image, png = encoded
        about = {"key": task.name, "seed": task.seed, "prompt": task.prompt}
        self._tell(self.sink.add(Row(item.number, png, about), item.block, task.name, self._record(task)))
        self.progress.done += 1
        if task.name in self._wanted:
            self.pictures[task.name] = reduced(image)

    def _tell(self, row: dict[str, Any] | None) -> None:
        if row is not None and self.command.run.json:
            print(json.dumps(row), flush=True)

    def _fail(self, name: str, error: Exception) -> None:
        if self.job.failed is None:
            raise error
        self.progress.failed += 1
        self.job.failed(name, error)


def _await_others(progress: Progress, peers: Peers) -> None:
    """Wait until the other processes are through or lost; no longer than the time limit while none gets on."""
    before, since = None, time.monotonic()
    while not progress.stopping:
        reports = peers.reports()
        if all(reports.get(index, {}).get("over") for index in range(1, peers.count)):
            return
        now = {index: report["done"] + report["skipped"] for index, report in reports.items()}
        if now != before:
            before, since = now, time.monotonic()
        if time.monotonic() - since > peers.timeout:
            slow = ", ".join(str(i) for i in range(1, peers.count) if not reports.get(i, {}).get("over"))
            progress.stop(f"process {slow} has made nothing for {peers.timeout} seconds")
        time.sleep(0.2)


def _conclude(folder: Folder, job: Job, sink: Sink, maker: _Maker, peers: Peers) -> None:
    """The manifest, the sheet, and what there is to say of the whole run."""
    if isinstance(sink, ShardSink):
        sink.finish(job.numbers)
    sheet = write_sheet(folder, job.sheet, maker.pictures)
    reports = [maker.progress.report(), *peers.reports().values()]
    skipped, found = sum(report["skipped"] for report in reports), summary(reports)
    if skipped:
        tell(f"{skipped} of {size_of(job.numbers)} images are done already")
    if maker.command.run.json:
        print(json.dumps({"sheet": sheet, **found}), flush=True)
        return
    where = f", the first of them together in {sheet}" if sheet else ""
    print(f"{found['images']} images written to {folder.shown}{where}", flush=True)
    rate, outside = found["images_per_second_per_device"], found["share_outside_devices"]
    if rate is not None and outside is not None:
        tell(f"{rate:.3g} images/s for each of {found['devices']} devices, idle {outside:.1%} of the time")
