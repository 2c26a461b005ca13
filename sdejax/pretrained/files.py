"""Files of weights: safetensors, or torch's, to arrays by name."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from sdejax.media.images import write_atomically


def read_weights(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, or of a state dict that torch wrote.

    **Raises:** `ValueError` where the file is damaged or cut short.
    """
    if file.suffix != ".safetensors":
        from sdejax.pretrained.torch_files import read_torch

        return read_torch(file)
    try:
        return safetensors.numpy.load(file.read_bytes())
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"weights={str(file)!r}: damaged or cut short ({error})") from None


def write_safetensors(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a safetensors file, whole or not at all."""
    # diffusers asks for the metadata that says which library's axes these are.
    write_atomically(file, safetensors.numpy.save(arrays, metadata={"format": "pt"}))


def digest(file: Path) -> str:
    """The SHA-256 of a file, as a model's `source` says it."""
    with file.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def read_json(file: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file; `name` is what errors call it.

    **Raises:** `ValueError` if the file holds no JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}={str(file)!r}: cannot be understood ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{name}={str(file)!r}: must hold a JSON object")
    return content
