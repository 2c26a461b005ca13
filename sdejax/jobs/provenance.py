"""Where an image comes from: the record that reproduces it, and which parts of the record make it another image."""

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any

from sdejax.jobs.command import ImageCommand

# Options of `run` that do not change an image.
_OTHER_RUN_OPTIONS = {
    "out", "seeds", "batch", "json", "format", "shard_size", "cache", "warmup", "coordinator", "processes",
    "process_id", "timeout",
}  # fmt: skip
NOT_OF_THE_IMAGE = {"snapshot", "manifest", "sweep", "versions", "png_sha256"}


def versions() -> dict[str, str]:
    """The versions of the libraries that compute an image."""
    return {name: importlib.metadata.version(name) for name in ("sdejax", "jax", "jaxlib", "diffrax", "flax")}


def record_of(command: ImageCommand, source: str) -> dict[str, Any]:
    """What reproduces the images of a command, but for their seeds and inputs. `source` is the snapshot's hash."""
    return {
        "command": command.verb,
        **dataclasses.asdict(command),
        "snapshot_hash": source,
        "versions": versions(),
    }


def image_identity(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a record that determines its image: not where its files are, nor how it was computed."""
    others = {*NOT_OF_THE_IMAGE, *record.get("inputs", ())}
    image = {key: value for key, value in record.items() if key not in others}
    return {**image, "run": {key: value for key, value in record["run"].items() if key not in _OTHER_RUN_OPTIONS}}


def first_difference(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """The first key for which two JSON objects have different values; None if they are equal."""
    return next((name for name in (*one, *other) if one.get(name) != other.get(name)), None)


class FileHashes:
    """SHA-256 hashes of files. Each file is read once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, paths: Mapping[str, str | None]) -> dict[str, str]:
        """The hash of each file, by the same names. A path that is None is left out.

        **Raises:** `OSError` if a file cannot be read.
        """
        return {name: self._one(path) for name, path in paths.items() if path is not None}

    def _one(self, path: str) -> str:
        if path not in self._known:
            with open(path, "rb") as file:
                self._known[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._known[path]
