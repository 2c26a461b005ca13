"""Where the images of a job go: a folder of pictures, or shards."""

import collections
import contextlib
import json
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from sdejax.jobs.png_folder import difference, is_done, versions, write_picture
from sdejax.jobs.ranges import Span, blocks, size_of, without
from sdejax.jobs.shards import (
    MANIFEST,
    Format,
    Row,
    Shard,
    finished,
    pngs_in,
    read_manifest,
    remove_unfinished,
    spans_in,
    write_manifest,
)
from sdejax.runtime.storage import Folder

_SHARD = 1000
_AT_ONCE = 32  # pictures on their way to an address
_FEW_SHARDS = 10  # of one process; of more, one that it has less of than another is little
_MANIFEST_EVERY, _MANIFEST_SHARE = 60.0, 0.05  # seconds at least, and at most this share of the writing


class Sink(Protocol):
    """Takes the images of a process in order. What `plan` returns on process 0 is true on all."""

    def plan(self, numbers: Sequence[Span]) -> list[Span]:
        """The numbers that are not there yet, as far as the folder tells at a glance."""
        ...

    def block(self, per_device: int, images: int) -> int:
        """How many tasks in a row are one process's, of so many that the job has."""
        ...

    def has(self, images: Sequence[tuple[str, dict[str, Any]]]) -> list[bool]:
        """Which images are there already, by their names and what reproduces them."""
        ...

    def add(self, row: Row, block: Span, name: str, record: dict[str, Any]) -> list[dict[str, Any]]:
        """Write an image; what there is to tell machines of the files that are there now."""
        ...

    def close(self) -> list[dict[str, Any]]:
        """End the last files in order; what there is to tell machines of them."""
        ...

    def abandon(self) -> None:
        """Leave no half of a file."""
        ...

    def finish(self, numbers: Sequence[Span], whole: bool) -> int | None:
        """End the job, as process 0; how many images are there now that were not, where that is known."""
        ...

    def pngs(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Those of these images that are there, by name, and their PNG."""
        ...


class PictureSink:
    """A PNG and a JSON each. At an address several are written at once, as each waits for its answers."""

    def __init__(self, folder: Folder):
        self._folder = folder
        self._names = None if folder.local else folder.sizes().keys()
        self._pool = None if folder.local else ThreadPoolExecutor(_AT_ONCE, "write")
        self._coming: collections.deque[Future[dict[str, Any]]] = collections.deque()

    def plan(self, numbers: Sequence[Span]) -> list[Span]:
        """All: each image is looked at when its turn comes."""
        return list(numbers)

    def block(self, per_device: int, images: int) -> int:
        """As many as a device takes at once."""
        return per_device

    def has(self, images: Sequence[tuple[str, dict[str, Any]]]) -> list[bool]:
        """Those whose PNG is whole and whose JSON tells of the same image."""

        def done(image: tuple[str, dict[str, Any]]) -> bool:
            there = self._names is None or f"{image[0]}.json" in self._names
            return there and is_done(self._folder, *image)

        return list(map(done, images) if self._pool is None else self._pool.map(done, images))

    def add(self, row: Row, block: Span, name: str, record: dict[str, Any]) -> list[dict[str, Any]]:
        """Write both files, or begin to."""
        if self._pool is None:
            return [self._write(row, name, record)]
        self._coming.append(self._pool.submit(self._write, row, name, record))
        return self._written(2 * _AT_ONCE)

    def _write(self, row: Row, name: str, record: dict[str, Any]) -> dict[str, Any]:
        write_picture(self._folder, name, row.png, record)
        return {"seed": row.about["seed"], "file": self._folder.show(f"{name}.png")}

    def _written(self, waiting: int) -> list[dict[str, Any]]:
        """Those of the first images that have been written; waits until at most so many others are not."""
        found = []
        while self._coming and (len(self._coming) > waiting or self._coming[0].done()):
            found.append(self._coming.popleft().result())
        return found

    def close(self) -> list[dict[str, Any]]:
        """Wait for what is being written."""
        return self._written(0)

    def abandon(self) -> None:
        """Wait for what is being written: each image is there whole or not at all."""
        if self._pool is not None:
            self._pool.shutdown()

    def finish(self, numbers: Sequence[Span], whole: bool) -> None:
        """Each image is a file of its own."""

    def pngs(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Each from its file."""

        def read(name: str) -> bytes | None:
            try:
                return self._folder.read(f"{name}.png")
            except FileNotFoundError:
                return None

        names = list(names)
        for name, png in zip(
            names, map(read, names) if self._pool is None else self._pool.map(read, names), strict=True
        ):
            if png is not None:
                yield name, png


class ShardSink:
    """A shard for each block, and on process 0 the manifest of all of them.

    `identity` is what makes the job another than one that the folder may hold, of JSON; `size` how many images a shard
    has, or None; this is process `index` of `processes`.
    """

    def __init__(
        self, folder: Folder, kind: Format, identity: dict[str, Any], size: int | None, index: int, processes: int
    ):
        self._folder, self._identity, self._size, self._processes = folder, identity, size, processes
        self._kind: Format = kind
        self._keeps_manifest, self._wanted, self._list_next = index == 0, (), 0.0
        self._finished: list[dict[str, Any]] = []
        self._before = 0
        self._alone_and_empty = False
        self._shard: Shard | None = None

    def plan(self, numbers: Sequence[Span]) -> list[Span]:
        """The numbers that no finished shard has. Begins the manifest, or holds against it what the folder is for.

        **Raises:** `ValueError` where the folder holds images of another job.
        """
        manifest, identity = read_manifest(self._folder), json.loads(json.dumps(self._identity))
        before = identity if manifest is None else manifest["job"]
        if (name := difference(identity, before)) is not None:
            raise ValueError(
                f"out={self._folder.shown!r}: holds images of another job; {name} was {json.dumps(before.get(name))}, "
                f"and is {json.dumps(identity.get(name))}"
            )
        shards = finished(self._folder, (manifest or {}).get("finished", ()))
        self._alone_and_empty = self._processes == 1 and not shards
        left = without(numbers, spans_in(shards))
        remove_unfinished(self._folder, shards, blocks(left, self.block(0, size_of(numbers))))
        self._list(numbers, shards)
        self._before = _images(shards)
        return left

    def block(self, per_device: int, images: int) -> int:
        """A shard's: as is asked, else 1,000, or so few that all processes have as many shards where these are few."""
        rounds = -(-images // (_SHARD * self._processes))
        if self._size is not None or self._processes == 1 or not 0 < rounds <= _FEW_SHARDS:
            return self._size or _SHARD
        return -(-images // (rounds * self._processes))

    def has(self, images: Sequence[tuple[str, dict[str, Any]]]) -> list[bool]:
        """None: what is there is not planned."""
        return [False] * len(images)

    def add(self, row: Row, block: Span, name: str, record: dict[str, Any]) -> list[dict[str, Any]]:
        """Write an image; where it is the first of its block, end the shard before."""
        said = []
        if self._shard is not None and self._shard.span != block:
            said = self.close()
        self._shard = self._shard or Shard(self._folder, block, self._kind)
        self._shard.add(row)
        return said

    def close(self) -> list[dict[str, Any]]:
        """End the shard under way, if there is one."""
        if self._shard is None:
            return []
        found = self._shard.close()
        self._shard = None  # not before: what fails in closing leaves something to abandon
        self._alone_and_empty = False
        if self._keeps_manifest and time.monotonic() > self._list_next:
            self._list(self._wanted)
        return [{"shard": self._folder.show(found["file"]), "images": found["images"]}]

    def abandon(self) -> None:
        """Leave nothing of the shard under way, and no manifest of a job that ends before it has one shard.

        A manifest that stays lists what is finished.
        """
        with contextlib.suppress(OSError):
            if self._shard is not None:
                self._shard.abandon()
            if self._alone_and_empty:
                self._folder.remove(MANIFEST)
            elif self._keeps_manifest:
                self._list(self._wanted)

    def finish(self, numbers: Sequence[Span], whole: bool) -> int:
        """List what all processes have made, and count it."""
        self._list(numbers, whole=whole)
        return _images(self._finished) - self._before

    def pngs(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """From the shards that were finished when they were last listed."""
        return pngs_in(self._folder, self._finished, names)

    def _list(self, numbers: Sequence[Span], shards: list[dict[str, Any]] | None = None, whole: bool = False) -> None:
        """`whole` says that these numbers are all of the job."""
        self._wanted = tuple(numbers)
        began = time.monotonic()
        self._finished = finished(self._folder, self._finished) if shards is None else shards
        complete = whole and not without(self._wanted, spans_in(self._finished))
        # The versions of the last start: in one job they may change from start to start.
        write_manifest(self._folder, self._identity, complete, self._finished, versions=versions())
        now = time.monotonic()  # tens of thousands of shards in a bucket take a while to list
        self._list_next = now + max(_MANIFEST_EVERY, (now - began) / _MANIFEST_SHARE)


def _images(shards: Sequence[dict[str, Any]]) -> int:
    return sum(entry["images"] for entry in shards)
