"""One process's share of a job: it opens the inputs, lets the devices compute, and writes the images, all at once."""

import collections
import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from PIL import Image

from sdejax.jobs.command import ImageCommand
from sdejax.jobs.job import Job, Task
from sdejax.jobs.progress import JobProgress, OutputClosed, print_json
from sdejax.jobs.provenance import NOT_OF_THE_IMAGE, record_of
from sdejax.jobs.ranges import BATCH, NumberRange
from sdejax.jobs.sheet import reduced
from sdejax.jobs.sinks import EncodedImage, Sink
from sdejax.jobs.writer import Writer
from sdejax.media.images import png_bytes
from sdejax.model.model import Model
from sdejax.runtime.batches import chunked

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class _OpenTask(Generic[T]):
    """A task whose inputs are open, its number, and the block that its image belongs to."""

    number: int
    task: Task[T]
    inputs: T
    block: NumberRange


class Maker(Generic[T]):
    """Makes the images of some blocks of a job.

    **Arguments:**

    - `first`: the number of the job's very first image, if the folder had none before; else None.

    `pictures` are those of the images that it made for the contact sheet, by name.
    """

    def __init__(
        self,
        command: ImageCommand,
        model: Model,
        job: Job[T],
        sink: Sink,
        progress: JobProgress,
        first: int | None,
    ):
        self.run, self.model, self.job, self.sink, self.progress = command.run, model, job, sink, progress
        self.pictures: dict[str, Image.Image] = {}
        self._first = first
        self._base = record_of(command, model.source)
        self._on_sheet = {cell for cell in job.sheet.shown if isinstance(cell, str)}

    def make(self, blocks: Iterable[NumberRange], batch: int) -> None:
        """Make and write the images of the blocks, `batch` at once on each device.

        **Raises:** `ValueError` if a batch is too large for the devices, the folder cannot be written, or the very
        first image fails.
        """
        writer: Writer[_OpenTask[T], tuple[Image.Image, bytes] | ValueError] = Writer(self._encode, self._write)
        computing: collections.deque[_OpenTask[T]] = collections.deque()

        def inputs() -> Iterator[T]:
            for item in self._opened(blocks):
                computing.append(item)
                yield item.inputs

        try:
            with memory_errors(batch), write_errors(self.run.out):
                for results in self.job.results(self.model, inputs(), batch, self.progress.clock):
                    writer.put([(computing.popleft(), result) for result in results])
                writer.close()
                self._print(self.sink.close())
        except BaseException:
            with contextlib.suppress(BaseException):  # what is computed is written in any case
                writer.close()
            self.sink.abandon()
            raise

    def _opened(self, blocks: Iterable[NumberRange]) -> Iterator[_OpenTask[T]]:
        """The tasks of the blocks whose images are not there yet. Ends early if this process has to stop."""
        for block in blocks:
            if self.progress.stopping:
                return
            for tasks in chunked(self.job.tasks(block), BATCH):
                done = self.sink.have([(task.name, self._record(task)) for _, task in tasks])
                self.progress.skipped += sum(done)
                for number, task in (pair for pair, there in zip(tasks, done, strict=True) if not there):
                    try:
                        yield _OpenTask(number, task, task.open(), block)
                    except (ValueError, OSError) as error:
                        self._fail(number, task.name, error)

    def _record(self, task: Task[T]) -> dict[str, Any]:
        return {**self._base, **task.record, "seed": task.seed}

    def _own(self, task: Task[T]) -> dict[str, Any]:
        """What a task's record says that differs from the job's. With the manifest it reproduces the image."""
        named = task.record.keys() - NOT_OF_THE_IMAGE - {"run"}
        own = {name: task.record[name] for name in sorted(named) if task.record[name] != self._base.get(name)}
        return {"own": own} if own else {}

    def _encode(self, item: _OpenTask[T], result: np.ndarray) -> tuple[Image.Image, bytes] | ValueError:
        try:
            image = item.task.finish(item.inputs, result)
        except ValueError as error:
            return error
        return image, png_bytes(image)

    def _write(self, item: _OpenTask[T], encoded: tuple[Image.Image, bytes] | ValueError) -> None:
        task = item.task
        if isinstance(encoded, ValueError):
            self._fail(item.number, task.name, encoded)
            return
        picture, png = encoded
        about = {"key": task.name, "seed": task.seed, "prompt": task.prompt, **self._own(task)}
        self._print(self.sink.add(EncodedImage(item.number, png, about, self._record(task)), item.block))
        self.progress.done += 1
        if task.name in self._on_sheet:
            self.pictures[task.name] = reduced(picture)

    def _print(self, files: list[dict[str, Any]]) -> None:
        if self.run.json:
            try:
                for file in files:
                    print_json(file)
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


@contextlib.contextmanager
def memory_errors(batch: int) -> Iterator[None]:
    """**Raises:** `ValueError` if a device's memory does not suffice for a batch."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--batch={batch}: must be smaller for the memory of a device ({reason})") from None


@contextlib.contextmanager
def write_errors(out: str) -> Iterator[None]:
    """**Raises:** `ValueError` if the folder cannot be written."""
    try:
        yield
    except OSError as error:
        reason = f"out={out!r}: cannot be written ({error.strerror or error})"
        raise ValueError(f"{reason}; what is there is kept, and the same command continues from it") from None
