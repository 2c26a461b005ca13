"""A sink that writes a shard for each block of a job, and a manifest of all shards."""

import contextlib
import json
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sdejax.jobs.manifest import MANIFEST, read_manifest, write_manifest
from sdejax.jobs.provenance import first_difference, versions
from sdejax.jobs.ranges import NumberRange, blocks, total_size, without
from sdejax.jobs.shards import Shard, ShardFormat, finished, numbers_in, pngs_in, remove_unfinished
from sdejax.jobs.sinks import Destination, EncodedImage

_SHARD = 1000
_FEW_SHARDS = 10  # of one process; with more it hardly matters if one process has a shard less than another
_LIST_EVERY, _LIST_SHARE = 60.0, 0.05  # the manifest is written no more often than every so many seconds, and takes at
# most this share of the time


class ShardSink:
    """Writes shards of one format. Process 0 also writes the manifest."""

    def __init__(self, kind: ShardFormat, destination: Destination):
        self._kind, self._destination = kind, destination
        self._folder = destination.folder
        self._identity = {**destination.identity, "format": kind.ending}
        self._numbers: tuple[NumberRange, ...] = ()
        self._list_next = 0.0
        self._finished: list[dict[str, Any]] = []
        self._images_before = 0
        self._alone_and_empty = False
        self._shard: Shard | None = None

    def missing(self, numbers: Sequence[NumberRange]) -> list[NumberRange]:
        """The numbers that no finished shard has. Also begins the manifest, or compares it with the job.

        **Raises:** `ValueError` if the folder holds images of another job.
        """
        manifest, identity = read_manifest(self._folder), json.loads(json.dumps(self._identity))
        before = identity if manifest is None else manifest["job"]
        if (name := first_difference(identity, before)) is not None:
            raise ValueError(
                f"out={self._folder.shown!r}: holds images of another job; {name} was {json.dumps(before.get(name))}, "
                f"and is {json.dumps(identity.get(name))}"
            )
        shards = finished(self._folder, (manifest or {}).get("finished", ()))
        self._alone_and_empty = self._destination.count == 1 and not shards
        left = without(numbers, numbers_in(shards))
        remove_unfinished(self._folder, shards, blocks(left, self.block_size(0, total_size(numbers))))
        self._list(numbers, shards)
        self._images_before = _images(shards)
        return left

    def block_size(self, per_device: int, images: int) -> int:
        """The size of a shard: what the person asked for, else 1,000, or fewer for a small job of several processes.

        In a small job all processes have the same number of shards.
        """
        size, count = self._destination.shard_size, self._destination.count
        rounds = -(-images // (_SHARD * count))
        if size is not None or count == 1 or not 0 < rounds <= _FEW_SHARDS:
            return size or _SHARD
        return -(-images // (rounds * count))

    def have(self, images: Sequence[tuple[str, dict[str, Any]]]) -> list[bool]:
        """None of them: `missing` has left out the others."""
        return [False] * len(images)

    def add(self, image: EncodedImage, block: NumberRange) -> list[dict[str, Any]]:
        """Write an image. The first image of a block completes the shard before it."""
        completed = []
        if self._shard is not None and self._shard.numbers != block:
            completed = self.close()
        self._shard = self._shard or Shard(self._folder, block, self._kind)
        self._shard.add(image)
        return completed

    def close(self) -> list[dict[str, Any]]:
        """Complete the current shard, if there is one."""
        if self._shard is None:
            return []
        entry = self._shard.close()
        self._shard = None  # only now: if closing fails, `abandon` needs it
        self._alone_and_empty = False
        if self._destination.index == 0 and time.monotonic() > self._list_next:
            self._list(self._numbers)
        return [{"shard": self._folder.show(entry["file"]), "images": entry["images"]}]

    def abandon(self) -> None:
        """Remove the current shard, and the manifest if the job ends before it has one shard.

        Otherwise the manifest lists what is finished.
        """
        with contextlib.suppress(OSError):
            if self._shard is not None:
                self._shard.abandon()
            if self._alone_and_empty:
                self._folder.remove(MANIFEST)
            elif self._destination.index == 0:
                self._list(self._numbers)

    def finish(self, numbers: Sequence[NumberRange], whole: bool) -> int:
        """List the shards of all processes, and count the new images."""
        self._list(numbers, whole=whole)
        return _images(self._finished) - self._images_before

    def find_pngs(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """The PNGs in the shards that were finished when they were last listed."""
        return pngs_in(self._folder, self._kind, self._finished, names)

    def _list(
        self, numbers: Sequence[NumberRange], shards: list[dict[str, Any]] | None = None, whole: bool = False
    ) -> None:
        """Write the manifest. `whole` says that these numbers are all images of the job."""
        self._numbers = tuple(numbers)
        began = time.monotonic()
        self._finished = finished(self._folder, self._finished) if shards is None else shards
        complete = whole and not without(self._numbers, numbers_in(self._finished))
        # These are the versions of the last start. They may change from start to start of one job.
        write_manifest(self._folder, self._identity, complete, self._finished, versions=versions())
        now = time.monotonic()  # listing tens of thousands of shards in a bucket takes a while
        self._list_next = now + max(_LIST_EVERY, (now - began) / _LIST_SHARE)


def _images(shards: Sequence[dict[str, Any]]) -> int:
    return sum(entry["images"] for entry in shards)
