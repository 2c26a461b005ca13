"""The format "png": a folder with a PNG for each image, and beside it a JSON file that reproduces the image."""

import collections
import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from sdejax.jobs.manifest import read_manifest
from sdejax.jobs.provenance import image_identity
from sdejax.jobs.ranges import NumberRange
from sdejax.jobs.sinks import Destination, EncodedImage
from sdejax.runtime.storage import Folder

_AT_ONCE = 32  # images that are written at the same time to an address


class PngSink:
    """Writes a PNG and a JSON file for each image.

    On a disk it writes one image after the other. At an address it writes several at once, because each waits for
    answers.
    """

    def __init__(self, destination: Destination):
        self._folder = folder = destination.folder
        self._names = None if folder.local else folder.sizes().keys()
        self._pool = None if folder.local else ThreadPoolExecutor(_AT_ONCE, "write")
        self._writing: collections.deque[Future[dict[str, Any]]] = collections.deque()

    def missing(self, numbers: Sequence[NumberRange]) -> list[NumberRange]:
        """All: `have` looks for each image when its turn comes."""
        if (manifest := read_manifest(self._folder)) is not None:
            kind = manifest["job"]["format"]
            raise ValueError(f"--format='png': must be {kind}, because out={self._folder.shown!r} holds such shards")
        return list(numbers)

    def block_size(self, per_device: int, images: int) -> int:
        """As many as a device computes at once."""
        return per_device

    def have(self, images: Sequence[tuple[str, dict[str, Any]]]) -> list[bool]:
        """Which images have a complete PNG, and a JSON file that describes the same image."""

        def done(image: tuple[str, dict[str, Any]]) -> bool:
            exists = self._names is None or f"{image[0]}.json" in self._names
            return exists and is_done(self._folder, *image)

        return list(map(done, images) if self._pool is None else self._pool.map(done, images))

    def add(self, image: EncodedImage, block: NumberRange) -> list[dict[str, Any]]:
        """Write both files, or begin to."""
        if self._pool is None:
            return [self._write(image)]
        self._writing.append(self._pool.submit(self._write, image))
        return self._written(2 * _AT_ONCE)

    def _write(self, image: EncodedImage) -> dict[str, Any]:
        write_png(self._folder, image.name, image.png, image.record)
        return {"seed": image.about["seed"], "file": self._folder.show(f"{image.name}.png")}

    def _written(self, most: int) -> list[dict[str, Any]]:
        """The images that are written, in order. Waits until at most `most` others are still being written."""
        found = []
        while self._writing and (len(self._writing) > most or self._writing[0].done()):
            found.append(self._writing.popleft().result())
        return found

    def close(self) -> list[dict[str, Any]]:
        """Wait until all images are written."""
        return self._written(0)

    def abandon(self) -> None:
        """Wait until what was begun is written: each file is there whole or not at all."""
        if self._pool is not None:
            self._pool.shutdown()

    def finish(self, numbers: Sequence[NumberRange], whole: bool) -> None:
        """Nothing is left to do, because each image is complete in itself."""

    def find_pngs(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """The content of the files."""

        def read(name: str) -> bytes | None:
            try:
                return self._folder.read(f"{name}.png")
            except FileNotFoundError:
                return None

        names = list(names)
        found = map(read, names) if self._pool is None else self._pool.map(read, names)
        for name, png in zip(names, found, strict=True):
            if png is not None:
                yield name, png


def write_png(folder: Folder, name: str, png: bytes, record: dict[str, Any]) -> None:
    """Write an image and the record that reproduces it.

    **Raises:** `OSError` if they cannot be written.
    """
    folder.write(f"{name}.png", png)
    record = {**record, "png_sha256": hashlib.sha256(png).hexdigest()}
    folder.write(f"{name}.json", (json.dumps(record, indent=1) + "\n").encode())


def has_pngs(folder: Folder) -> bool:
    """Whether the folder has a PNG with a JSON file beside it."""
    names = folder.sizes().keys()
    return any(name.endswith(".png") and f"{name.removesuffix('.png')}.json" in names for name in names)


def is_done(folder: Folder, name: str, record: dict[str, Any]) -> bool:
    """Whether a PNG is complete and its JSON file describes the same image as `record`.

    Images are the same if they have the same options, seed, weights and bytes of their inputs, wherever these are.
    """
    try:
        found = json.loads(folder.read(f"{name}.json"))
        whole = found["png_sha256"] == hashlib.sha256(folder.read(f"{name}.png")).hexdigest()
        return whole and image_identity(found) == image_identity(json.loads(json.dumps(record)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
