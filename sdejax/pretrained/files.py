"""Weight files: safetensors and PyTorch files are read as numpy arrays, safetensors files are written.

A PyTorch file is a pickle, and a pickle can ask for code to be run. Such code is never run.
"""

import hashlib
import json
import pickle
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from sdejax.runtime.files import write_atomically


def read_weights(file: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a safetensors file, or of a PyTorch file that holds a state dict.

    **Raises:** `ValueError` if the file is damaged or cut short.
    """
    if file.suffix != ".safetensors":
        return read_torch(file)
    try:
        return safetensors.numpy.load(file.read_bytes())
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"weights={str(file)!r}: damaged or cut short ({error})") from None


def write_safetensors(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a safetensors file, whole or not at all."""
    # diffusers requires this metadata. It names the library whose order of axes the arrays have.
    write_atomically(file, safetensors.numpy.save(arrays, metadata={"format": "pt"}))


def read_torch(path: str | Path) -> Any:
    """Read a PyTorch file.

    **Returns:** the content, most often a dict. Every tensor in it is a numpy array, also inside dicts, lists and
    tuples; bfloat16 becomes float32.

    **Raises:** `ValueError` that names the path, if PyTorch is not installed, the file is missing or damaged, or the
    file holds more than tensors and plain values.
    """
    named = f"path={str(path)!r}"
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(f"{named}: to read a PyTorch file needs torch (pip install 'sdejax[torch]')") from None
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{named}: no such file")
    try:
        # With mmap, the state of an optimiser beside the weights is never read from the disk. Only zip archives can be
        # mapped.
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        if any(words in str(error) for words in ("GLOBAL", "reduce", "Can only")):
            raise ValueError(f"{named}: refused; it holds Python objects, and loading those could run code") from None
        raise ValueError(f"{named}: is not a PyTorch file, or is damaged") from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError, IndexError, TypeError):
        raise ValueError(f"{named}: is not a PyTorch file, or is cut short") from None
    return _as_numpy(content, torch)


def digest(file: Path) -> str:
    """Compute the SHA-256 of a file, in the form of a model's `source`."""
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


def _as_numpy(value: Any, torch: types.ModuleType) -> Any:
    """Replace the tensors in nested dicts, lists and tuples by numpy arrays."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if isinstance(value, dict):
        return {key: _as_numpy(item, torch) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_as_numpy(item, torch) for item in value)
    return value
