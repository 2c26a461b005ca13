"""Programs that are loaded ahead: those that the same job had last time, beside all else that its start takes.

Loading an executable does without Python's lock, and the imports of flax hold it: on two cores each takes its own.
"""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax


class Ahead:
    """What a job had last time, on its way, and a note of what it has this time.

    `read` and `write` are of files by name; `read` raises where there is none. Places are those among the process's
    devices, for the numbers are other ones in each process. A wrong note costs the other core some work.
    """

    def __init__(self, job: str, read: Callable[[str], bytes], write: Callable[[str, bytes], None]):
        self._file = f"job-{hashlib.sha256(job.encode()).hexdigest()[:32]}.json"
        self._write = write
        self._last: list[tuple[str, list[int]]] = []
        self._used: list[tuple[str, list[int]]] = []
        self._coming: dict[str, tuple[list[int], Future[Any]]] = {}
        try:
            # Here, lest the thread and this one wait for each other's imports.
            from sdejax.runtime.executables import load

            local = jax.local_devices()
            self._last = [(str(name), list(places)) for name, places in json.loads(read(self._file))]
            with_places = [(name, places, [local[place] for place in places]) for name, places in self._last]
        except Exception:  # there is no note, or no sense in it
            return

        def from_file(name: str, devices: list[Any]) -> Any:
            return load(read(name), devices)

        worker = ThreadPoolExecutor(1)
        for name, places, devices in with_places:
            self._coming[name] = places, worker.submit(from_file, name, devices)
        worker.shutdown(wait=False)

    def take(self, name: str, devices: list[Any]) -> Any:
        """The program of that name as it was loaded onto these devices; None where it was not.

        **Raises:** what loading it raised.
        """
        self._note(name, devices)
        places, coming = self._coming.pop(name, (None, None))
        return coming.result() if coming is not None and places == _places(devices) else None

    def _note(self, name: str, devices: list[Any]) -> None:
        self._used.append((name, _places(devices)))
        if self._used != self._last[: len(self._used)]:
            self._write(self._file, json.dumps(self._used).encode())


def _places(devices: list[Any]) -> list[int]:
    local = jax.local_devices()
    return [local.index(device) for device in devices if device in local]
