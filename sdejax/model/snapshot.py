"""Snapshots: a folder with one set of parameters and what they mean, for users."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from sdejax.media.images import write_atomically
from sdejax.model.model import Model
from sdejax.model.networks import FlaxNetwork
from sdejax.model.serialise import Architecture, architecture_from_json, architecture_to_json
from sdejax.nn.params import from_names, to_names

_ARCHITECTURE, _PARAMETERS = "model.json", "params.safetensors"


def load_snapshot(path: str | Path) -> Model:
    """Read a snapshot folder.

    **Raises:** `ValueError`, naming the path, if it is not a snapshot, a file of it is missing or cut short, its format
    or a class, field or value in it is not known, or its parameters are not those of its architecture.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"snapshot={str(path)!r}: no such folder; a snapshot is a folder with {_ARCHITECTURE}")
    for name in (_ARCHITECTURE, _PARAMETERS):
        if not (folder / name).is_file():
            raise ValueError(f"snapshot={str(path)!r}: the file {name} is missing")
    try:
        found = architecture_from_json(json.loads((folder / _ARCHITECTURE).read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"snapshot={str(path)!r}: {_ARCHITECTURE} cannot be understood ({error})") from None
    data = (folder / _PARAMETERS).read_bytes()
    with ThreadPoolExecutor(1) as other_core:  # a hash takes as long as all the rest
        digest = other_core.submit(lambda: hashlib.sha256(data).hexdigest())
        try:
            arrays = safetensors.numpy.load(data)
        except (safetensors.SafetensorError, ValueError) as error:
            raise ValueError(f"snapshot={str(path)!r}: {_PARAMETERS} is damaged or cut short ({error})") from None
        abstract = FlaxNetwork.abstract(found.network)
        try:
            params = from_names(abstract.params, arrays)
        except ValueError as error:
            raise ValueError(f"snapshot={str(path)!r}: {_PARAMETERS} {error}") from None
        network, source = FlaxNetwork(found.network, params), f"sha256:{digest.result()}"
        return Model(network, found.sde, found.parametrisation, found.conditioner, found.codec, source=source)


def save(path: str | Path, model: Model, dtype: str = "float32") -> None:
    """Write a snapshot folder; each file whole or not at all, model.json last.

    `dtype` "float16" halves the file; parameters are float32 again once loaded.

    **Raises:** `ValueError` if the network is not a flax network of this library.
    """
    config = model.config
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(value).astype(dtype) for name, value in to_names(model.params).items()}
    write_atomically(folder / _PARAMETERS, safetensors.numpy.save(arrays))
    about = Architecture(config, model.sde, model.parametrisation, model.conditioner, model.codec)
    text = json.dumps(architecture_to_json(about), indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / _ARCHITECTURE, text.encode())
