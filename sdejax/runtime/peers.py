"""What the processes of a run tell each other beside their work: a plan that all follow, how far each is, who is lost.

It goes through the coordinator of `jax.distributed`, never through the devices, so that nobody waits in a collective
for one that is gone. Each process says every second that it is there; process 0 sees who does not, and tells the others
why all have to end. A run of one process has no others, and everything here is at once and by itself.
"""

import atexit
import contextlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from sdejax.runtime.aborts import PeersGone
from sdejax.runtime.distributed import silence_within

_EVERY = 0.2  # seconds between questions while waiting
_BEAT = 1.0  # seconds between two signs of life
_LINGER = 60  # seconds at most that process 0 waits for the others where it ends early
_NOTHING = {"done": 0, "skipped": 0, "failed": 0, "devices": 0, "busy": 0.0, "seconds": 0.0}  # the report of no work


def got_on(report: dict[str, Any]) -> int:
    """How many images a process is through with, of what it says."""
    return report["done"] + report["skipped"] + report["failed"]


class Peers:
    """The processes of this run, after `start_processes(..., independent=True)`.

    `index` and `count` are this process's number and how many there are; `timeout` is in seconds. Methods raise
    `PeersGone` where process 0 does not answer; but for the last, `leave`.
    """

    def __init__(self, timeout: int):
        from jax._src.distributed import global_state  # jax has no public way to its store of keys and values

        # Not from jax.process_index: that would wait for the devices.
        self._store = global_state.client
        self.index, self.count = 0, 1
        if self._store is not None:
            self.index, self.count = global_state.process_id, global_state.num_processes
        self.timeout, self.silence = timeout, silence_within(timeout)
        self._beats: dict[int, tuple[Any, float]] = {i: (None, time.monotonic()) for i in range(self.count)}

    def agree(self, name: str, decide: Callable[[], Any]) -> Any:
        """What `decide()` of process 0 returned, of JSON, on all processes; and what it raised, as `ValueError`.

        **Raises:** `PeersGone` where process 0 has not said it within the time limit.
        """
        if self._store is None:
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
        while not (said := self._listed(f"{name}/")):
            if why := self.trouble():
                raise PeersGone(why)
            if time.monotonic() > until:
                raise PeersGone(f"timeout={self.timeout}: process 0 took longer to say its {name}")
            time.sleep(_EVERY)
        (answer,) = said.values()
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["value"]

    def tell(self, report: dict[str, Any]) -> None:
        """Say how far this process is.

        `report["over"]` says that it will not say more, `report["stopped"]` why it ends before the work does, or "".
        """
        self._set(f"report/{self.index}", report)

    def reports(self) -> dict[int, dict[str, Any]]:
        """What the others said last, by their index."""
        said = {int(key): report for key, report in self._listed("report/").items()}
        return {index: report for index, report in said.items() if index != self.index}

    def gone(self) -> list[int]:
        """The others without a sign of life for `silence` seconds that had not said it was over. For process 0."""
        now, beats, reports = time.monotonic(), self._listed("beat/"), self.reports()
        for index, (beat, _) in self._beats.items():
            if beats.get(str(index)) != beat:
                self._beats[index] = beats[str(index)], now
        quiet = [index for index, (_, since) in self._beats.items() if now - since > self.silence]
        return [index for index in quiet if index != self.index and not reports.get(index, {}).get("over")]

    def trouble(self) -> str:
        """Why all have to end before the work does, or "". Process 0 finds out, the others hear it from there."""
        if self._store is None:
            return ""
        if self.index > 0:
            return self._listed("end/").get("0", "")
        if stopped := [report["stopped"] for report in self.reports().values() if report.get("stopped")]:
            return stopped[0]
        names = ", ".join(map(str, self.gone()))
        return f"process {names} of {self.count} is gone" if names else ""

    def end(self, why: str) -> None:
        """Tell the others that they have to end, and why. Process 0 is who they listen to."""
        if self.index == 0:
            self._set("end/0", why)

    def conclude(self) -> None:
        """Say, as process 0, that what is left to do at the end of a run is done."""
        self._set("conclusion/0", True)

    def await_conclusion(self, report: dict[str, Any]) -> str:
        """Say the last `report`, and wait for process 0 to `conclude`, at most the time limit while no process gets on.

        Returns why the run ends before its work does, or "".
        """
        before, since = None, time.monotonic()
        self.tell(report)
        while not self._listed("conclusion/"):
            now = {index: got_on(other) for index, other in self.reports().items()}
            if now != before:
                before, since = now, time.monotonic()
            if time.monotonic() - since > self.timeout:
                break
            time.sleep(_EVERY)
        return self.trouble()

    def bring_up_devices(self) -> None:
        """Wait for this process's devices, with a sign of life each second from now on.

        On CPUs and GPUs each process is told of the others' devices: where one has gone meanwhile, jax would wait for
        two minutes and name nobody. Here this process ends within `silence`, or the time limit, in a sentence.

        **Raises:** `ValueError` where they do not come up.
        """
        up = threading.Event()
        if self._store is not None:
            _begin_beating(self._store, self.index)
            threading.Thread(target=self._end_without, args=(up,), name="devices", daemon=True).start()
        try:
            jax.local_devices()
        except (RuntimeError, AssertionError) as error:  # the second from jax, where it has no such platform
            none = f"there are none of JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')!r}"
            said = str(error).partition("\n")[0] or none
            raise ValueError(f"devices: {said}") from None
        finally:
            up.set()

    def _end_without(self, up: threading.Event) -> None:
        began, limit = time.monotonic(), max(self.timeout, self.silence + 5)  # who is gone is known before
        while not up.wait(_BEAT):
            try:
                why = self.trouble()
                if not why and time.monotonic() - began > limit:
                    why = f"the devices of all processes have not come up within {limit} seconds"
                if not why:
                    continue
                self.end(why)
            except PeersGone as error:
                why = str(error)
            print(f"error: {why}; the same command makes what is missing", file=sys.stderr, flush=True)
            if self.index == 0:
                time.sleep(3.0 * _BEAT)  # the others ask each second
            os._exit(1)

    def leave(self, soon: bool = False) -> None:
        """End the connection, process 0 as the last: it waits for the others, no longer than the time limit.

        `soon` where one of them is known to hang: they get the time to hear of it.
        """
        if self._store is None:
            return
        if self.index == 0:
            left = self._others_left(3.0 * _BEAT if soon else max(self.timeout, self.silence) + _BEAT)
            if not left and not soon:
                print("error: another process has ended its work and does not leave", file=sys.stderr)
            if not left:
                _exit(1)
        _stop_beating()
        jax.distributed.shutdown()

    def _others_left(self, seconds: float) -> bool:
        """Whether all others end the connection in that time. Else it cannot be ended, over an open question."""

        def ask() -> None:
            # It answers when none but this process is connected, and has no limit of its own.
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self._store.get_live_nodes(list(range(self.count)))  # pyright: ignore[reportOptionalMemberAccess]

        asked = threading.Thread(target=ask, name="leave", daemon=True)
        asked.start()
        asked.join(seconds)
        return not asked.is_alive()

    def _set(self, key: str, value: Any) -> None:
        if self._store is not None:
            with _answered():
                self._store.key_value_set(key, json.dumps(value), allow_overwrite=True)

    def _listed(self, folder: str) -> dict[str, Any]:
        if self._store is None:
            return {}
        with _answered():
            return {key.rpartition("/")[2]: json.loads(value) for key, value in self._store.key_value_dir_get(folder)}


def leave_early(why: str, code: int) -> None:
    """As one of several processes, tell the others why it ends, and leave; alone, or once it has left, do nothing.

    Without process 0 the others are ended by jaxlib: it waits until they have finished what they write, no longer than
    a process may be silent, and exits with `code` where one has not.
    """
    if _beating is None:
        return
    peers = Peers(_LINGER)
    said = f"process {peers.index} of {peers.count} has ended: {why}"
    try:
        if not peers._listed("report/").get(str(peers.index), {}).get("over"):
            peers.tell({**_NOTHING, "over": True, "stopped": said})
        peers.end(said)
        if peers.index == 0:
            peers.conclude()
        if peers.index == 0 and not peers._others_left(_LINGER):
            _exit(code)
    except (PeersGone, KeyboardInterrupt):
        _exit(code)
    _stop_beating()
    jax.distributed.shutdown()


def _exit(code: int) -> None:
    """End at once, without what Python and jax do as they end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


_no_more = threading.Event()
_beating: threading.Thread | None = None


def _begin_beating(store: Any, index: int) -> None:
    """A sign of life each second, until the connection ends."""
    global _beating

    def beat() -> None:
        for number in itertools.count():
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # where process 0 is gone, who asks it next says so
                store.key_value_set(f"beat/{index}", str(number), allow_overwrite=True)
            if _no_more.wait(_BEAT):
                return

    _no_more.clear()
    _beating = threading.Thread(target=beat, name="beat", daemon=True)
    _beating.start()
    atexit.register(_stop_beating)  # before the interpreter is torn down around the thread


@contextlib.contextmanager
def _answered() -> Iterator[None]:
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
