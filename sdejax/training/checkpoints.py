"""Snapshots and checkpoints: two different things.

A *snapshot* is for users: one set of parameters and what they mean, in a folder with model.json (architecture,
process, vocabulary) and params.safetensors; `sdejax.load` takes it. A *checkpoint* is for the run that wrote it: the
whole training state and the position in the data, in orbax's format, by step.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from sdejax.training.step import TrainState


class Checkpoints:
    """The checkpoints of one run, below a folder or at any path that orbax takes, such as gs://bucket/run.

    Asynchronous and atomic. The newest `kept` stay, and each whose step `forever` divides. A checkpoint carries a
    fingerprint of what it should hold, so that one that was cut short is recognised whatever its format makes of it.
    All processes of a run call the same methods; `timeout` is the seconds that one waits for the others to write.
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
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, notes: dict[str, Any]) -> None:
        """Start writing the state and `notes`, plain data; a later save or `close` waits for it."""
        import orbax.checkpoint as ocp

        leaves = _named(state)
        known = {**notes, "arrays": _described(leaves), "fingerprint": _fingerprint(leaves)}
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(leaves), notes=ocp.args.JsonSave(known))
        self._manager.save(int(state.step), args=arguments)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest state that is whole, on the devices where `like` is, and its notes; None where there is none.

        A damaged checkpoint is named, set aside under a name of its own, and the one before it taken.

        **Raises:** `ValueError` where the checkpoint is of another network or optimiser, or all are damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            found = self._restored(step, like)
            if not isinstance(found, str):
                return found
            self._say(f"warning: the checkpoint {self.folder / str(step)} is damaged ({found}); taking the one before")
            if jax.process_index() == 0:
                (self.folder / str(step)).rename(self.folder / f"damaged-{step}")
            multihost_utils.sync_global_devices(f"damaged {step}")
            self._manager.reload()
        if steps:
            raise ValueError(f"checkpoints={str(self.folder)!r}: all are damaged; remove the folder to start anew")
        return None

    def _restored(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]] | str:
        """The state and notes of a step, or in a few words what is wrong with them."""
        import orbax.checkpoint as ocp

        wanted = _named(like)
        notes, state, wrong = {}, {}, ""
        try:
            notes = dict(self._manager.restore(step, args=ocp.args.Composite(notes=ocp.args.JsonRestore()))["notes"])
            wrong = "" if {"arrays", "fingerprint"} <= set(notes) else "its notes are not whole"
        except Exception as error:  # what a library makes of damaged files is any kind of exception
            wrong = f"its notes cannot be read: {_first_line(error)}"
        if not wrong and notes["arrays"] != _described(wanted):
            raise ValueError(
                f"checkpoints={str(self.folder)!r}: step {step} is of another network or optimiser, in "
                f"{_difference(notes['arrays'], _described(wanted))}; give the run another folder (--out)"
            )
        if not wrong:
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted)
            try:
                arguments = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
                state = self._manager.restore(step, args=arguments)["state"]
            except Exception as error:
                wrong = f"its arrays cannot be read: {_first_line(error)}"
        # Where one process cannot read its part, all have to take the checkpoint before.
        if bool(np.any(multihost_utils.process_allgather(np.asarray(bool(wrong))))):
            return wrong or "another process cannot read its part"
        if _fingerprint(state) != notes["fingerprint"]:
            return "its arrays are not those that were written"
        leaves = [state[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), notes

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def _named(state: TrainState) -> dict[str, Any]:
    """The arrays of a state by readable names, such as params.down.32x32.block0.conv0.kernel."""
    named = jax.tree_util.tree_flatten_with_path(state)[0]
    return {".".join(re.findall(r"\w+", jax.tree_util.keystr(path))): leaf for path, leaf in named}


def _described(leaves: dict[str, Any]) -> dict[str, str]:
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items()}


def _difference(one: dict[str, str], other: dict[str, str]) -> str:
    name = next(name for name in [*one, *other] if one.get(name) != other.get(name))
    return f"{name}: {one.get(name, 'missing')}, now {other.get(name, 'missing')}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _fingerprint(leaves: dict[str, Any]) -> list[int]:
    """For each array, the sum of its bits as whole numbers modulo 2^32: the same in any order, on any devices.

    By numpy, each part where one process has it: a program for hundreds of arrays took longer to compile than to run.
    """
    arrays = [leaves[name] for name in sorted(leaves)]
    own = [_sum(part.data for part in array.addressable_shards if part.replica_id == 0) for array in arrays]
    each = np.reshape(multihost_utils.process_allgather(np.asarray(own, np.uint32)), (-1, len(own)))
    return [int(value) for value in each.sum(axis=0, dtype=np.uint32)]


def _sum(parts: Iterable[jax.Array]) -> int:
    return sum(int(np.sum(np.asarray(part).view(np.uint32), dtype=np.uint32)) for part in parts) % 2**32
