"""Programs that are loaded in advance: a thread loads the programs that the same job used last time while it starts.

Loading an executable does not hold Python's lock, and importing flax does: on two cores they run at the same time.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax

from sdejax.runtime.executables import Loaded, load
from sdejax.runtime.hardware import Device


class Prefetch:
    """Loads the programs that a job used last time, and notes which programs it uses this time.

    A note lists the name of each program and the positions of its devices among the devices of the process, because
    the devices' numbers differ from process to process. A wrong note costs the other core some work, and nothing else.

    **Arguments:**

    - `job`: a name. Jobs with the same name are expected to use the same programs.
    - `read(name)`: the content of a file; raises an exception if there is none.
    - `write(name, content)`: writes a file.
    """

    def __init__(self, job: str, read: Callable[[str], bytes], write: Callable[[str, bytes], None]):
        self._note = f"job-{hashlib.sha256(job.encode()).hexdigest()[:32]}.json"
        self._write = write
        self._last: list[tuple[str, list[int]]] = []
        self._used: list[tuple[str, list[int]]] = []
        self._loading: dict[str, tuple[list[int], Future[Loaded]]] = {}
        try:
            local = jax.local_devices()
            self._last = [(str(name), list(positions)) for name, positions in json.loads(read(self._note))]
            programs = [(name, positions, [local[at] for at in positions]) for name, positions in self._last]
        except Exception:  # there is no note, or it is damaged, or it lists devices that this process does not have
            return

        def from_file(name: str, devices: Sequence[Device]) -> Loaded:
            return load(read(name), devices)

        thread = ThreadPoolExecutor(1, "prefetch")
        for name, positions, devices in programs:
            self._loading[name] = positions, thread.submit(from_file, name, devices)
        thread.shutdown(wait=False)

    def take(self, name: str, devices: Sequence[Device]) -> Loaded | None:
        """The program of that name if it was loaded onto these devices, else None. Waits until it is loaded.

        **Raises:** the exception that loading it raised.
        """
        self._remember(name, devices)
        if name not in self._loading:
            return None
        positions, loading = self._loading.pop(name)
        return loading.result() if positions == _positions(devices) else None

    def _remember(self, name: str, devices: Sequence[Device]) -> None:
        self._used.append((name, _positions(devices)))
        if self._used != self._last[: len(self._used)]:
            self._write(self._note, json.dumps(self._used).encode())


def _positions(devices: Sequence[Device]) -> list[int]:
    local = jax.local_devices()
    return [local.index(device) for device in devices if device in local]
