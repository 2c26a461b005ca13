"""A folder of pictures: each a PNG, and beside it a JSON file that reproduces it."""

import dataclasses
import hashlib
import importlib.metadata
import json
from typing import Any

from sdejax.runtime.storage import Folder

# Options of `run` that do not say what an image is.
_NOT_OF_THE_IMAGE = {
    "out", "seeds", "batch", "json", "format", "shard_size", "cache", "warmup", "coordinator", "processes",
    "process_id", "timeout",
}  # fmt: skip
NOT_OF_THE_RECORD = {"snapshot", "manifest", "sweep", "versions", "png_sha256"}


def versions() -> dict[str, str]:
    """Of what computes an image."""
    return {name: importlib.metadata.version(name) for name in ("sdejax", "jax", "jaxlib", "diffrax", "flax")}


def of_the_job(command: Any, model: Any) -> dict[str, Any]:
    """What reproduces the images of a command, a frozen dataclass, but for their seeds and inputs."""
    return {
        "command": type(command).__name__.lower(),
        **dataclasses.asdict(command),
        "snapshot_hash": model.source,
        "versions": versions(),
    }


def of_the_image(record: dict[str, Any]) -> dict[str, Any]:
    """What of a record says what its image is: not where its files are, nor how it was computed."""
    elsewhere = {*NOT_OF_THE_RECORD, *record.get("inputs", ())}
    image = {key: value for key, value in record.items() if key not in elsewhere}
    return {**image, "run": {key: value for key, value in record["run"].items() if key not in _NOT_OF_THE_IMAGE}}


def difference(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """The first name that two descriptions, of JSON, have different values of."""
    return next((name for name in (*one, *other) if one.get(name) != other.get(name)), None)


def write_picture(folder: Folder, name: str, png: bytes, record: dict[str, Any]) -> None:
    """**Raises:** `OSError` where it cannot be written."""
    folder.write(f"{name}.png", png)
    record = {**record, "png_sha256": hashlib.sha256(png).hexdigest()}
    folder.write(f"{name}.json", (json.dumps(record, indent=1) + "\n").encode())


def holds_pictures(folder: Folder) -> bool:
    """Whether there is a PNG with a JSON beside it."""
    names = folder.sizes().keys()
    return any(name.endswith(".png") and f"{name.removesuffix('.png')}.json" in names for name in names)


def is_done(folder: Folder, name: str, record: dict[str, Any]) -> bool:
    """Whether a PNG is whole and the JSON beside it tells of the same image as `record`.

    The same image: the same options, seed, weights and bytes of its inputs, wherever these lie.
    """
    try:
        found = json.loads(folder.read(f"{name}.json"))
        whole = found["png_sha256"] == hashlib.sha256(folder.read(f"{name}.png")).hexdigest()
        return whole and of_the_image(found) == of_the_image(json.loads(json.dumps(record)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
