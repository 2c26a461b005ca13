"""Where the images of a job go: a folder of pictures, or shards."""

import contextlib
import json
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Protocol

from sdejax.pictures import is_done, write_picture
from sdejax.shards import (
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
from sdejax.spans import Span, blocks, size_of, without
from sdejax.storage import Folder

_SHARD = 1000
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

    def has(self, name: str, record: dict[str, Any]) -> bool:
        """Whether an image is there already, by its name and what reproduces it."""
        ...

    def add(self, row: Row, block: Span, name: str, record: dict[str, Any]) -> dict[str, Any] | None:
        """Write an image; what there is to tell machines of it."""
        ...

    def close(self) -> dict[str, Any] | None:
        """End the last file in order; what there is to tell machines of it."""
        ...

    def abandon(self) -> None:
        """Leave no half of a file."""
        ...

    def finish(self, numbers: Sequence[Span]) -> int | None:
        """End the job, as process 0; how many images are there now that were not, where that is known."""
        ...

    def pngs(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Those of these images that are there, by name, and their PNG."""
        ...


class PictureSink:
    """A PNG and a JSON each."""

    def __init__(self, folder: Folder):
        self._folder = folder

    def plan(self, numbers: Sequence[Span]) -> list[Span]:
        """All: each image is looked at when its turn comes."""
        return list(numbers)

    def block(self, per_device: int, images: int) -> int:
        """As many as a device takes at once."""
        return per_device

    def has(self, name: str, record: dict[str, Any]) -> bool:
        """Whether the PNG is whole and its JSON tells of the same image."""
        return is_done(self._folder, name, record)

    def add(self, row: Row, block: Span, name: str, record: dict[str, Any]) -> dict[str, Any]:
        """Write both files."""
        write_picture(self._folder, name, row.png, record)
        return {"seed": row.about["seed"], "file": self._folder.show(f"{name}.png")}

    def close(self) -> None:
        """Each image is a file of its own."""

    def abandon(self) -> None:
        """Each image is a file of its own."""

    def finish(self, numbers: Sequence[Span]) -> None:
        """Each image is a file of its own."""

    def pngs(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Each from its file."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                yield name, self._folder.read(f"{name}.png")


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
        if manifest is not None and manifest["job"] != identity:
            before = manifest["job"]
            name = next((key for key in (*identity, *before) if before.get(key) != identity.get(key)), "")
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

    def has(self, name: str, record: dict[str, Any]) -> bool:
        """What is there is not planned."""
        return False

    def add(self, row: Row, block: Span, name: str, record: dict[str, Any]) -> dict[str, Any] | None:
        """Write an image; where it is the first of its block, end the shard before."""
        said = None
        if self._shard is not None and self._shard.span != block:
            said = self.close()
        self._shard = self._shard or Shard(self._folder, block, self._kind)
        self._shard.add(row)
        return said

    def close(self) -> dict[str, Any] | None:
        """End the shard under way, if there is one."""
        if self._shard is None:
            return None
        found = self._shard.close()
        self._shard = None  # not before: what fails in closing leaves something to abandon
        self._alone_and_empty = False
        if self._keeps_manifest and time.monotonic() > self._list_next:
            self._list(self._wanted)
        return {"shard": self._folder.show(found["file"]), "images": found["images"]}

    def abandon(self) -> None:
        """Leave nothing of the shard under way, and no manifest of a job that ends before it has one shard."""
        with contextlib.suppress(OSError):
            if self._shard is not None:
                self._shard.abandon()
            if self._alone_and_empty:
                self._folder.remove(MANIFEST)

    def finish(self, numbers: Sequence[Span]) -> int:
        """List what all processes have made, and count it."""
        self._list(numbers)
        return _images(self._finished) - self._before

    def pngs(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """From the shards that were finished when they were last listed."""
        return pngs_in(self._folder, self._finished, names)

    def _list(self, numbers: Sequence[Span], shards: list[dict[str, Any]] | None = None) -> None:
        self._wanted = tuple(numbers)
        began = time.monotonic()
        self._finished = finished(self._folder, self._finished) if shards is None else shards
        write_manifest(self._folder, self._identity, self._wanted, self._finished)
        now = time.monotonic()  # tens of thousands of shards in a bucket take a while to list
        self._list_next = now + max(_MANIFEST_EVERY, (now - began) / _MANIFEST_SHARE)


def _images(shards: Sequence[dict[str, Any]]) -> int:
    return sum(entry["images"] for entry in shards)
