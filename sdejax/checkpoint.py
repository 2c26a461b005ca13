"""Snapshots and checkpoints: two different things.

A *snapshot* is for users: one set of parameters and what they mean, in a folder with model.json (architecture,
process, vocabulary) and params.safetensors; `sdejax.load` takes it. A *checkpoint* is for the run that wrote it: the
whole training state, in orbax's format, by step.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from sdejax.config import architecture_from_json, architecture_to_json
from sdejax.images import write_atomically
from sdejax.model import Model
from sdejax.nn.names import from_names, to_names
from sdejax.nn.ncsnpp import structure
from sdejax.training import TrainState

_ARCHITECTURE, _PARAMETERS = "model.json", "params.safetensors"


def load_snapshot(path: str | Path) -> Model:
    """Read a snapshot folder.

    **Raises:** `ValueError`, naming the path, where it is not a snapshot, a file of it is missing or cut short, or its
    parameters are not those of its architecture.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"snapshot={str(path)!r}: no such folder; a snapshot is a folder with {_ARCHITECTURE}")
    for name in (_ARCHITECTURE, _PARAMETERS):
        if not (folder / name).is_file():
            raise ValueError(f"snapshot={str(path)!r}: the file {name} is missing")
    try:
        config, sde, parametrisation, vocabulary = architecture_from_json(
            json.loads((folder / _ARCHITECTURE).read_text(encoding="utf-8"))
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"snapshot={str(path)!r}: {_ARCHITECTURE} cannot be understood ({error})") from None
    data = (folder / _PARAMETERS).read_bytes()
    try:
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"snapshot={str(path)!r}: {_PARAMETERS} is damaged or cut short ({error})") from None
    graph, abstract = structure(config)
    try:
        params = from_names(abstract, arrays)
    except ValueError as error:
        raise ValueError(f"snapshot={str(path)!r}: {_PARAMETERS} {error}") from None
    source = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return Model(config, sde, parametrisation, params, vocabulary, graph, source)


def save(path: str | Path, model: Model, dtype: str = "float32") -> None:
    """Write a snapshot folder; each file whole or not at all, model.json last.

    `dtype` "float16" halves the file; parameters are float32 again once loaded.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(value).astype(dtype) for name, value in to_names(model.params).items()}
    write_atomically(folder / _PARAMETERS, safetensors.numpy.save(arrays))
    architecture = architecture_to_json(model.config, model.sde, model.parametrisation, model.vocabulary)
    write_atomically(folder / _ARCHITECTURE, (json.dumps(architecture, indent=1, ensure_ascii=False) + "\n").encode())


class Checkpoints:
    """The checkpoints of one run, below a folder: asynchronous and atomic, the newest `kept` of them."""

    def __init__(self, folder: Path, kept: int = 2):
        import orbax.checkpoint as ocp

        # orbax takes absolute paths only.
        options = ocp.CheckpointManagerOptions(max_to_keep=kept, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Start writing the state; a later save or `close` waits for it."""
        import orbax.checkpoint as ocp

        self._manager.save(int(state.step), args=ocp.args.StandardSave(_plain(state)))

    def restore(self, like: TrainState) -> TrainState | None:
        """The newest state, with the shapes and shardings of `like`; None where there is none."""
        import orbax.checkpoint as ocp

        step = self.latest()
        if step is None:
            return None
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _plain(like))
        plain = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(plain))

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def _plain(state: TrainState) -> dict[str, Any]:
    """The state as plain containers with stable names."""
    return {f"{i:05d}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}
