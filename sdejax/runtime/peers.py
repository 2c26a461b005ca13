"""Messages between the processes of a run: a plan that all follow, how far each process is, and which one is lost.

The messages go through the coordinator of `jax.distributed` and never through the devices, so that no process waits in
a collective for one that is gone. Each process gives a sign of life every second. Process 0 sees which process gives
none, and tells the others why all have to stop. In a run of one process everything here returns at once.
"""

import atexit
import contextlib
import dataclasses
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from sdejax.runtime import jax_private
from sdejax.runtime.distributed import heartbeat_limit
from sdejax.runtime.errors import PeersGone

_POLL = 0.2  # seconds between two questions of a process that waits
_BEAT = 1.0  # seconds between two signs of life
_LINGER = 60  # seconds at most that process 0 waits for the others if it ends early


@dataclasses.dataclass(frozen=True)
class Report:
    """How far a process is.

    - `done`, `skipped`, `failed`: how many images it has made, found in the folder, and could not make.
    - `devices`: how many devices it has; `busy`, `seconds`: for how long they had work, and how long they have run,
      summed over the devices.
    - `over`: it will send no other report.
    - `stopped`: why it stops before its work is done, or "".
    """

    done: int = 0
    skipped: int = 0
    failed: int = 0
    devices: int = 0
    busy: float = 0.0
    seconds: float = 0.0
    over: bool = False
    stopped: str = ""

    @property
    def attempted(self) -> int:
        """How many images it is finished with."""
        return self.done + self.skipped + self.failed


class Peers:
    """The processes of this run, after `start_processes(..., independent=True)`.

    `index` is the index of this process, `count` the number of processes, and `timeout` is in seconds. All methods but
    `leave` raise `PeersGone` if process 0 does not answer.

    **Raises:** `ValueError` if there are several processes and this version of jax does not let them talk.
    """

    def __init__(self, timeout: int):
        # The index does not come from jax.process_index, which would wait for the devices.
        try:
            self._connection = jax_private.connection()
        except jax_private.Missing as missing:
            raise ValueError(
                f"jax={jax.__version__}: must be a version with {missing}, by which processes share a job"
            ) from None
        self.index, self.count = 0, 1
        if self._connection is not None:
            self.index, self.count = self._connection.index, self._connection.count
        self.timeout, self.silence = timeout, heartbeat_limit(timeout)
        self._beats: dict[int, tuple[Any, float]] = {i: (None, time.monotonic()) for i in range(self.count)}

    def agree(self, name: str, decide: Callable[[], Any]) -> Any:
        """Call `decide` on process 0 and return its result, which must be JSON, on all processes.

        **Raises:** what `decide` raises, on the other processes as `ValueError`; `PeersGone` if process 0 has not
        decided within the time limit.
        """
        if self._connection is None:
            return decide()
        if self.index == 0:
            try:
                value = decide()
            except (ValueError, OSError) as error:
                self._set(f"{name}/0", {"error": str(error)})
                raise
            self._set(f"{name}/0", {"value": value})
            return value
        until = time.monotonic() + self.timeout
        while not (found := self._values(f"{name}/")):
            if why := self.reason_to_stop():
                raise PeersGone(why)
            if time.monotonic() > until:
                raise PeersGone(f"timeout={self.timeout}: process 0 took longer to decide on the {name}")
            time.sleep(_POLL)
        (answer,) = found.values()
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["value"]

    def send(self, report: Report) -> None:
        """Tell the others how far this process is."""
        self._set(f"report/{self.index}", dataclasses.asdict(report))

    def reports(self) -> dict[int, Report]:
        """The last report of each other process that sent one, by its index."""
        reports = {int(key): Report(**fields) for key, fields in self._values("report/").items()}
        return {index: report for index, report in reports.items() if index != self.index}

    def lost(self) -> list[int]:
        """The other processes that gave no sign of life for `silence` seconds and are not over. For process 0."""
        now, beats, reports = time.monotonic(), self._values("beat/"), self.reports()
        for index, (beat, _) in self._beats.items():
            if beats.get(str(index)) != beat:
                self._beats[index] = beats[str(index)], now
        silent = [index for index, (_, since) in self._beats.items() if now - since > self.silence]
        return [index for index in silent if index != self.index and not reports.get(index, Report()).over]

    def reason_to_stop(self) -> str:
        """Why all processes have to stop before the work is done, or "". Process 0 tells the others."""
        if self._connection is None:
            return ""
        if self.index > 0:
            return self._values("stop/").get("0", "")
        if stopped := [report.stopped for report in self.reports().values() if report.stopped]:
            return stopped[0]
        names = ", ".join(map(str, self.lost()))
        return f"process {names} of {self.count} is gone" if names else ""

    def stop_others(self, why: str) -> None:
        """Tell the others that they have to stop, and why. The others listen only to process 0."""
        if self.index == 0:
            self._set("stop/0", why)

    def wait_for_others(self) -> list[int]:
        """Wait, as process 0, until each other process is over or lost, or none has progressed for `timeout` seconds.

        **Returns:** the processes that are neither over nor lost.
        """
        stalled = _Stalled(self.timeout)
        while True:
            reports, lost = self.reports(), self.lost()
            left = [i for i in range(1, self.count) if i not in lost and not reports.get(i, Report()).over]
            if not left or stalled.check(reports):
                return left
            time.sleep(_POLL)

    def conclude(self) -> None:
        """Tell the others, as process 0, that the run is finished."""
        self._set("conclusion/0", True)

    def wait_for_conclusion(self, report: Report) -> str:
        """Send the last `report`, and wait for process 0 to conclude until no process progressed for `timeout` seconds.

        **Returns:** why the run stops before its work is done, or "".
        """
        stalled = _Stalled(self.timeout)
        self.send(report)
        while not self._values("conclusion/") and not stalled.check(self.reports()):
            time.sleep(_POLL)
        return self.reason_to_stop()

    def start_devices(self) -> None:
        """Wait for this process's devices, and give a sign of life every second from now on.

        On CPUs and GPUs each process is told of the others' devices. If one process is gone by then, jax would wait for
        two minutes and name nobody. Here this process prints one sentence and ends, within `silence` or the time limit.

        **Raises:** `ValueError` if the devices do not start.
        """
        started = threading.Event()
        if self._connection is not None:
            _begin_beating(self._connection)
            threading.Thread(target=self._end_unless, args=(started,), name="devices", daemon=True).start()
        try:
            jax.local_devices()
        except (RuntimeError, AssertionError) as error:  # jax raises the second if it does not have the platform
            none = f"there are none of JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')!r}"
            raise ValueError(f"devices: {str(error).partition(chr(10))[0] or none}") from None
        finally:
            started.set()

    def _end_unless(self, started: threading.Event) -> None:
        """End this process if another one is lost, or time is up, before the devices have `started`."""
        began, limit = time.monotonic(), max(self.timeout, self.silence + 5)  # a lost process is known before the limit
        while not started.wait(_BEAT):
            try:
                why = self.reason_to_stop()
                if not why and time.monotonic() - began > limit:
                    why = f"the devices of all processes did not start within {limit} seconds"
                if not why:
                    continue
                self.stop_others(why)
            except PeersGone as error:
                why = str(error)
            print(f"error: {why}; the same command makes what is missing", file=sys.stderr, flush=True)
            if self.index == 0:
                time.sleep(3.0 * _BEAT)  # the others ask every second
            os._exit(1)

    def leave(self, soon: bool = False) -> None:
        """Close the connection. Process 0 is the last to do so: it waits for the others, up to the time limit.

        `soon`: if True, one of the others is known to hang, and process 0 waits only until they could hear of it.
        """
        if self._connection is None:
            return
        if self.index == 0:
            left = self._others_left(3.0 * _BEAT if soon else max(self.timeout, self.silence) + _BEAT)
            if not left and not soon:
                print("error: another process has finished its work and does not exit", file=sys.stderr)
            if not left:
                _exit(1)
        _stop_beating()
        jax.distributed.shutdown()

    def _others_left(self, seconds: float) -> bool:
        """Whether all others close their connections within `seconds`. If not, this one cannot be closed any more."""
        connection = self._connection
        assert connection is not None

        def wait() -> None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                connection.wait_until_alone()

        waiting = threading.Thread(target=wait, name="leave", daemon=True)
        waiting.start()
        waiting.join(seconds)
        return not waiting.is_alive()

    def _set(self, key: str, value: Any) -> None:
        if self._connection is not None:
            with _unanswered_as_gone():
                self._connection.store.key_value_set(key, json.dumps(value), allow_overwrite=True)

    def _values(self, folder: str) -> dict[str, Any]:
        """The values of all keys in a folder of the store, by the last part of the key."""
        if self._connection is None:
            return {}
        with _unanswered_as_gone():
            found = self._connection.store.key_value_dir_get(folder)
        return {key.rpartition("/")[2]: json.loads(value) for key, value in found}


class _Stalled:
    """Notices that no process has progressed for `timeout` seconds."""

    def __init__(self, timeout: int):
        self._timeout, self._attempted, self._since = timeout, {}, time.monotonic()

    def check(self, reports: dict[int, Report]) -> bool:
        """Whether the processes have attempted no other image since `timeout` seconds before now."""
        attempted = {index: report.attempted for index, report in reports.items()}
        if attempted != self._attempted:
            self._attempted, self._since = attempted, time.monotonic()
        return time.monotonic() - self._since > self._timeout


def leave_early(why: str, code: int) -> None:
    """Tell the other processes why this one ends, and close the connection. Alone, or after `leave`, do nothing.

    jaxlib ends the others when process 0 ends. So process 0 waits until they have finished what they write, at most as
    long as a process may be silent, and exits with `code` if one has not.
    """
    if _beating is None:
        return
    peers = Peers(_LINGER)
    message = f"process {peers.index} of {peers.count} has ended: {why}"
    try:
        if not peers._values("report/").get(str(peers.index), {}).get("over"):
            peers.send(Report(over=True, stopped=message))
        peers.stop_others(message)
        if peers.index == 0:
            peers.conclude()
            if not peers._others_left(_LINGER):
                _exit(code)
    except (PeersGone, KeyboardInterrupt):
        _exit(code)
    _stop_beating()
    jax.distributed.shutdown()


def _exit(code: int) -> None:
    """End at once, without what Python and jax do at exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


_no_more = threading.Event()
_beating: threading.Thread | None = None


def _begin_beating(connection: jax_private.Connection) -> None:
    """Give a sign of life every second until the connection is closed."""
    global _beating

    def beat() -> None:
        for number in itertools.count():
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 is gone; the next question to it says so
                connection.store.key_value_set(f"beat/{connection.index}", str(number), allow_overwrite=True)
            if _no_more.wait(_BEAT):
                return

    _no_more.clear()
    _beating = threading.Thread(target=beat, name="beat", daemon=True)
    _beating.start()
    atexit.register(_stop_beating)  # the thread must end before the interpreter does


@contextlib.contextmanager
def _unanswered_as_gone() -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError:
        raise PeersGone("process 0, which coordinates the others, does not answer") from None


def _stop_beating() -> None:
    global _beating
    _no_more.set()
    if _beating is not None:
        _beating.join(5.0 * _BEAT)
    _beating = None
