"""Checkpoints of a run: by step, the whole training state and the position in the data, in orbax's format.

A checkpoint is for the run that wrote it. A *snapshot* is for users: one set of parameters with its description
(`sdejax.model.snapshot`).
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypedDict, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from sdejax.training.step import TrainState


class Notes(TypedDict, total=False):
    """What a resumed run needs besides the state.

    `position` is the number of images that all processes together have drawn. `losses` are those since the last row of
    the metrics, `skipped` is the number of skipped steps, and `undecodable` are the indexes of images that cannot be
    decoded.
    """

    position: int
    losses: list[float]
    skipped: int
    undecodable: list[int]


class Checkpoints:
    """The checkpoints of one run, in a folder or at any path that orbax takes, such as gs://bucket/run.

    They are written asynchronously, and each is written whole or not at all. A checkpoint has a fingerprint of its
    arrays, so a damaged one is detected even if its format reads without an error. All processes of a run must call
    the same methods.

    **Arguments:**

    - `folder`: where the checkpoints are.
    - `kept`: how many of the newest checkpoints stay.
    - `forever`: a checkpoint also stays if this divides its step (0: none).
    - `timeout`: how many seconds a process waits for the others to write.
    - `say`: is called with each warning.
    """

    def __init__(
        self,
        folder: str | Path,
        kept: int = 2,
        forever: int = 0,
        timeout: int = 300,
        say: Callable[[str], None] = lambda text: None,
    ):
        import orbax.checkpoint as ocp
        from etils import epath

        path = epath.Path(folder)
        self.folder = path if "://" in str(folder) else path.absolute()  # orbax takes absolute paths only
        self._say = say
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=kept,
                keep_period=forever or None,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(timeout_secs=timeout),
            ),
        )

    def latest(self) -> int | None:
        """The newest step with a complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, notes: Notes) -> None:
        """Start to write the state and `notes`; a later save or `close` waits until they are written."""
        import orbax.checkpoint as ocp

        leaves = _named(state)
        written = {**notes, "arrays": _described(leaves), "fingerprint": _fingerprint(leaves)}
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(leaves), notes=ocp.args.JsonSave(written))
        self._manager.save(int(state.step), args=arguments)

    def restore(self, like: TrainState) -> tuple[TrainState, Notes] | None:
        """Read the newest undamaged checkpoint.

        A damaged checkpoint is reported and renamed, and the one before it is read instead. `like` is a state, or the
        shapes of one, with the same arrays; each array is put on the devices of its counterpart.

        **Returns:** the state and its notes; None if there is no checkpoint.

        **Raises:** `ValueError` if the checkpoint belongs to another network or optimiser, or if all are damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            found = self._restored(step, like)
            if not isinstance(found, str):
                return found
            name = self.folder / str(step)
            self._say(f"warning: the checkpoint {name} is damaged ({found}); reading the one before it")
            if jax.process_index() == 0:
                name.rename(self.folder / f"damaged-{step}")
            multihost_utils.sync_global_devices(f"damaged {step}")
            self._manager.reload()
        if steps:
            raise ValueError(f"checkpoints={str(self.folder)!r}: all are damaged; remove the folder to start again")
        return None

    def _restored(self, step: int, like: TrainState) -> tuple[TrainState, Notes] | str:
        """Read the state and notes of a step; if they are damaged, return a few words about the damage."""
        import orbax.checkpoint as ocp

        wanted = _named(like)
        read = self._read_notes(step)
        if not isinstance(read, str) and read[1] != _described(wanted):
            raise ValueError(
                f"checkpoints={str(self.folder)!r}: step {step} is of another network or optimiser, in "
                f"{_difference(read[1], _described(wanted))}; give the run another folder (--out)"
            )
        state, damage = {}, read if isinstance(read, str) else ""
        if not damage:
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted)
            try:
                arguments = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
                state = self._manager.restore(step, args=arguments)["state"]
            except Exception as error:
                damage = f"its arrays cannot be read: {_first_line(error)}"
        # If one process cannot read its part, all must read the checkpoint before.
        any_damage = bool(np.any(multihost_utils.process_allgather(np.asarray(bool(damage)))))
        if any_damage or isinstance(read, str):
            return damage or "another process cannot read its part"
        notes, _, fingerprint = read
        if _fingerprint(state) != fingerprint:
            return "its arrays differ from those that were written"
        leaves = [state[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), notes

    def _read_notes(self, step: int) -> tuple[Notes, dict[str, str], list[int]] | str:
        """Read the notes, the description of the arrays and their fingerprint, or return a few words on the damage."""
        import orbax.checkpoint as ocp

        try:
            read = dict(self._manager.restore(step, args=ocp.args.Composite(notes=ocp.args.JsonRestore()))["notes"])
        except Exception as error:  # for damaged files, the libraries raise any kind of exception
            return f"its notes cannot be read: {_first_line(error)}"
        if not {"arrays", "fingerprint"} <= set(read):
            return "its notes are incomplete"
        arrays, fingerprint = read.pop("arrays"), read.pop("fingerprint")
        return cast(Notes, read), arrays, fingerprint

    def close(self) -> None:
        """Wait until everything is on the disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def _named(state: TrainState) -> dict[str, jax.Array]:
    """The arrays of a state by readable names such as params.down.32x32.block0.conv0.kernel."""
    named = jax.tree_util.tree_flatten_with_path(state)[0]
    return {".".join(re.findall(r"\w+", jax.tree_util.keystr(path))): leaf for path, leaf in named}


def _described(leaves: dict[str, jax.Array]) -> dict[str, str]:
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items()}


def _difference(one: dict[str, str], other: dict[str, str]) -> str:
    name = next(name for name in [*one, *other] if one.get(name) != other.get(name))
    return f"{name}: {one.get(name, 'missing')}, now {other.get(name, 'missing')}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _fingerprint(leaves: dict[str, jax.Array]) -> list[int]:
    """For each array, the sum of its bits as whole numbers modulo 2^32. It does not depend on order or devices.

    Numpy computes it, and each process sums the parts that it holds. A compiled program for hundreds of arrays would
    take longer to compile than to run.
    """
    arrays = [leaves[name] for name in sorted(leaves)]
    own = [_sum(part.data for part in array.addressable_shards if part.replica_id == 0) for array in arrays]
    each = np.reshape(multihost_utils.process_allgather(np.asarray(own, np.uint32)), (-1, len(own)))
    return [int(value) for value in each.sum(axis=0, dtype=np.uint32)]


def _sum(parts: Iterable[jax.Array]) -> int:
    return sum(int(np.sum(np.asarray(part).view(np.uint32), dtype=np.uint32)) for part in parts) % 2**32
