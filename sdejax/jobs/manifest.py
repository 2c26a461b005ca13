"""The manifest of a folder of shards: the job that they belong to, and a list of the finished ones."""

import json
from collections.abc import Sequence
from typing import Any

from sdejax.runtime.storage import Folder

MANIFEST = "manifest.json"


def read_manifest(folder: Folder) -> dict[str, Any] | None:
    """The manifest of a folder, or None if it has none.

    **Raises:** `OSError` if it cannot be read, `ValueError` if it is damaged or is not a manifest of this library.
    """
    try:
        manifest = json.loads(folder.read(MANIFEST))
        _ = manifest["job"]["format"], [entry["file"] for entry in manifest["finished"]]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        told = "is damaged; if the shards beside it are of this job, remove it, and it is written again from them"
        raise ValueError(f"{folder.show(MANIFEST)}: {told}") from None
    return manifest


def write_manifest(
    folder: Folder, job: dict[str, Any], complete: bool, shards: Sequence[dict[str, Any]], **about: Any
) -> None:
    """List the finished shards of a job, say whether they are all, and add `about`."""
    manifest = {
        "job": job,
        **about,
        "images": sum(entry["images"] for entry in shards),
        "complete": complete,
        "finished": shards,
    }
    folder.write(MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
