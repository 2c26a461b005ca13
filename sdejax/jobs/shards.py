"""Shards: files of many images, each with an index.

A shard has the images of a range of numbers (seeds, or positions in a list of edits), and its name is the range. The
index is written after the shard, so a shard without an index is not finished.
"""

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, Protocol

from sdejax.jobs.ranges import NumberRange, merged, without
from sdejax.jobs.sinks import EncodedImage
from sdejax.runtime.storage import Folder

_INDEX = re.compile(r"\d{10}-\d{10}\.json")
_FILE = re.compile(r"\d{10}-\d{10}\.\w+")  # a shard or an index


class ShardWriter(Protocol):
    """Writes the content of one shard."""

    def add(self, image: EncodedImage) -> None:
        """Append an image."""
        ...

    def close(self) -> None:
        """Write what is left. The file stays open."""
        ...


class ShardFormat(Protocol):
    """A kind of file that holds many images. `ending` is that of its files' names, without the dot."""

    @property
    def ending(self) -> str: ...

    def writer(self, file: IO[bytes]) -> ShardWriter:
        """What writes a shard to an open file, from beginning to end."""
        ...

    def images(self, file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
        """The key and the PNG of each image in an open shard, in order."""
        ...


class _Abandoned(Exception):
    """Ends the writing of a shard that will not be finished."""


class _HashedFile(io.RawIOBase):
    """A file that is written from beginning to end, and its length and hash."""

    def __init__(self, file: IO[bytes]):
        self._file, self.hash, self.length = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.length += len(data)
        self._file.write(data)
        return len(data)

    def tell(self) -> int:
        return self.length


class Shard:
    """A shard that is being written. It gets its name when it is closed, and then its index is written."""

    def __init__(self, folder: Folder, numbers: NumberRange, kind: ShardFormat):
        self.numbers, self._folder = numbers, folder
        self._name = f"{numbers.name}.{kind.ending}"
        self._about: list[dict[str, Any]] = []
        self._missing = set(numbers.numbers)
        self._exit = contextlib.ExitStack()
        self._file = _HashedFile(self._exit.enter_context(folder.writing(self._name)))
        self._writer = kind.writer(self._file)  # pyright: ignore[reportArgumentType]

    def add(self, image: EncodedImage) -> None:
        """Append an image.

        **Raises:** `OSError` if it cannot be written.
        """
        self._writer.add(image)
        self._missing.remove(image.number)
        self._about.append({**image.about, "sha256": hashlib.sha256(image.png).hexdigest()})

    def close(self) -> dict[str, Any]:
        """Name the shard and write its index.

        **Returns:** its entry in the manifest.
        """
        self._writer.close()
        self._exit.close()
        entry = {
            "file": self._name,
            "first": self.numbers.first,
            "last": self.numbers.last,
            "images": len(self._about),
            "missing": sorted(self._missing),
            "bytes": self._file.length,
            "sha256": self._file.hash.hexdigest(),
        }
        self._folder.write(f"{self.numbers.name}.json", json.dumps({**entry, "index": self._about}).encode())
        return entry

    def abandon(self) -> None:
        """Remove the unfinished file."""
        with contextlib.suppress(_Abandoned), self._exit:
            with contextlib.suppress(OSError, ValueError):  # Python would close it later, after its file is removed
                self._writer.close()
            raise _Abandoned


def finished(folder: Folder, known: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """The manifest's entries of the finished shards of a folder, in order.

    A shard is not finished if its file is missing or does not have the length that its index says. The indexes of
    shards that are `known` from a manifest are not read again.
    """
    sizes, by_stem = folder.sizes(), {entry["file"].partition(".")[0]: entry for entry in known}

    def read(name: str) -> dict[str, Any] | None:
        try:
            entry = by_stem.get(name.removesuffix(".json")) or json.loads(folder.read(name))
            return entry if sizes.get(entry["file"]) == entry["bytes"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    with ThreadPoolExecutor(32) as pool:
        found = [entry for entry in pool.map(read, filter(_INDEX.fullmatch, sizes)) if entry is not None]
    entries = [{key: value for key, value in entry.items() if key != "index"} for entry in found]
    return sorted(entries, key=lambda entry: entry["first"])


def numbers_in(shards: Sequence[dict[str, Any]]) -> list[NumberRange]:
    """The numbers of the images in finished shards."""
    return merged(
        one
        for entry in shards
        for one in without([NumberRange(entry["first"], entry["last"])], [NumberRange(n, n) for n in entry["missing"]])
    )


def pngs_in(
    folder: Folder, kind: ShardFormat, shards: Sequence[dict[str, Any]], keys: Collection[str]
) -> Iterator[tuple[str, bytes]]:
    """The PNGs of those of `keys` that the shards have. Each shard is read only up to the last of them."""
    left = set(keys)
    for entry in shards:
        if not left:
            return
        index = json.loads(folder.read(f"{entry['file'].partition('.')[0]}.json"))["index"]
        here = left & {line["key"] for line in index}
        if not here:
            continue
        left -= here
        with folder.reading(entry["file"]) as file:
            for key, png in kind.images(file):
                if key in here:
                    yield key, png
                    here.remove(key)
                if not here:
                    break


def remove_unfinished(folder: Folder, shards: Sequence[dict[str, Any]], planned: Iterable[NumberRange]) -> None:
    """Remove the files of unfinished shards, except those that will be overwritten under the same name."""
    kept = {one.name for one in planned} | {entry["file"].partition(".")[0] for entry in shards}
    for name in folder.sizes():
        if _FILE.fullmatch(name) and name.partition(".")[0] not in kept:
            folder.remove(name)
