"""What the processes of a run tell each other beside their work: a plan that all follow, how far each is, who is lost.

It goes through the coordinator of `jax.distributed`, never through the devices, so that nobody waits in a collective
for one that is gone. A run of one process has no others, and everything here is at once and by itself.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

_EVERY = 0.2  # seconds between questions while waiting


class PeersGone(ValueError):
    """The coordinator does not answer."""


class Peers:
    """The processes of this run, after `start_processes(..., independent=True)`.

    `index` and `count` are this process's number and how many there are; `timeout` is in seconds. Every method raises
    `PeersGone` where process 0 does not answer.
    """

    def __init__(self, timeout: int):
        from jax._src.distributed import global_state  # jax has no public way to its store of keys and values

        self.index, self.count, self.timeout = jax.process_index(), jax.process_count(), timeout
        self._store = global_state.client if self.count > 1 else None

    def agree(self, name: str, decide: Callable[[], Any]) -> Any:
        """What `decide()` of process 0 returned, of JSON, on all processes; and what it raised, as `ValueError`.

        **Raises:** `ValueError` where process 0 has not said it within the time limit.
        """
        if self._store is None:
            return decide()
        if self.index == 0:
            try:
                value = decide()
            except (ValueError, OSError) as error:
                self._store.key_value_set(f"{name}/0", json.dumps({"error": str(error)}))
                raise
            self._store.key_value_set(f"{name}/0", json.dumps({"value": value}))
            return value
        until = time.monotonic() + self.timeout
        while not (said := dict(self._listed(f"{name}/"))):
            if time.monotonic() > until:
                raise ValueError(f"timeout={self.timeout}: process 0 took longer to say its {name}")
            time.sleep(_EVERY)
        (answer,) = said.values()
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["value"]

    def tell(self, report: dict[str, Any]) -> None:
        """Say how far this process is. `report["over"]` says that it will not say more."""
        if self._store is not None:
            with _answered():
                self._store.key_value_set(f"report/{self.index}", json.dumps(report), allow_overwrite=True)

    def reports(self) -> dict[int, dict[str, Any]]:
        """What the others said last, by their index."""
        said = {int(key): report for key, report in self._listed("report/")}
        return {index: report for index, report in said.items() if index != self.index}

    def lost(self) -> list[int]:
        """The others that have gone without having said that it was over: known within a minute, or the time limit."""
        there, reports = self._there(), self.reports()
        return [i for i in range(self.count) if i not in there and not reports.get(i, {}).get("over")]

    def leave(self) -> None:
        """End the connection, process 0 as the last: it waits for the others, no longer than the time limit."""
        if self._store is None:
            return
        until = time.monotonic() + self.timeout
        while self.index == 0 and len(self._there()) > 1 and time.monotonic() < until:
            time.sleep(_EVERY)
        jax.distributed.shutdown()

    def _there(self) -> set[int]:
        if self._store is None:
            return {0}
        with _answered():
            return {self.index, *self._store.get_live_nodes(list(range(self.count)))}

    def _listed(self, folder: str) -> list[tuple[str, Any]]:
        if self._store is None:
            return []
        with _answered():
            return [(key.rpartition("/")[2], json.loads(value)) for key, value in self._store.key_value_dir_get(folder)]


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError:
        raise PeersGone("process 0, which coordinates the others, does not answer") from None
