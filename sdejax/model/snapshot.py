"""Snapshots: a folder with one set of parameters and what they mean, for users."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from sdejax.model.model import Model
from sdejax.model.networks import FlaxNetwork
from sdejax.model.serialise import Architecture, architecture_from_json, architecture_to_json
from sdejax.nn.params import from_names, to_names
from sdejax.runtime.files import write_atomically

_ARCHITECTURE, _PARAMETERS = "model.json", "params.safetensors"


def is_snapshot(path: Path) -> bool:
    """Whether a path is a folder with the file model.json."""
    return (path / _ARCHITECTURE).is_file()


def load_snapshot(path: str | Path) -> Model:
    """Read a snapshot folder.

    **Raises:** `ValueError` that names the path, if it is not a snapshot, if a file of it is missing, damaged or cut
    short, if a format, class, field or value in it is unknown, or if its parameters do not fit its architecture.
    """
    folder, named = Path(path), f"snapshot={str(path)!r}"
    if not folder.is_dir():
        raise ValueError(f"{named}: no such folder; a snapshot is a folder with {_ARCHITECTURE}")
    for name in (_ARCHITECTURE, _PARAMETERS):
        if not (folder / name).is_file():
            raise ValueError(f"{named}: the file {name} is missing")
    try:
        found = architecture_from_json(json.loads((folder / _ARCHITECTURE).read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{named}: {_ARCHITECTURE} cannot be read ({error})") from None
    data = (folder / _PARAMETERS).read_bytes()
    with ThreadPoolExecutor(1) as other_core:  # the hash takes as long as everything else together
        digest = other_core.submit(lambda: hashlib.sha256(data).hexdigest())
        try:
            arrays = safetensors.numpy.load(data)
        except (safetensors.SafetensorError, ValueError) as error:
            raise ValueError(f"{named}: {_PARAMETERS} is damaged or cut short ({error})") from None
        try:
            abstract = FlaxNetwork.abstract(found.network)
        except ValueError as error:
            raise ValueError(f"{named}: {_ARCHITECTURE} describes no network ({error})") from None
        try:
            params = from_names(abstract.params, arrays)
        except ValueError as error:
            raise ValueError(f"{named}: {_PARAMETERS} {error}") from None
        network, source = FlaxNetwork(found.network, params), f"sha256:{digest.result()}"
    return Model(network, found.sde, found.parametrisation, found.conditioner, found.codec, source=source)


def save(path: str | Path, model: Model, dtype: str = "float32") -> None:
    """Write a snapshot folder. Each file is written whole or not at all, model.json last.

    **Arguments:**

    - `path`: the folder.
    - `model`: its network must be a flax network of this library.
    - `dtype`: "float32", or "float16", which halves the file. Loaded parameters are always float32.

    **Raises:** `ValueError` if the network or `dtype` is another.
    """
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype={dtype!r}: must be float32 or float16")
    about = Architecture(model.config, model.sde, model.parametrisation, model.conditioner, model.codec)
    text = json.dumps(architecture_to_json(about), indent=1, ensure_ascii=False) + "\n"
    arrays = {name: np.asarray(value).astype(dtype) for name, value in to_names(model.params).items()}
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / _PARAMETERS, safetensors.numpy.save(arrays))
    write_atomically(folder / _ARCHITECTURE, text.encode())
