"""One sentence where jaxlib ends a process for the sake of another.

jaxlib calls abort() when the processes of a run do not find each other, and when their coordinator is gone. No
exception comes of that; what is left is the signal, on which a handler in C may still write.
"""

import contextlib
import ctypes
import os
import re
import signal
import tempfile
from collections.abc import Iterator

_PREFIX = "error: "


class PeersGone(ValueError):
    """Another process of the run, without which this one cannot work, is gone: a command's exit code is then 1."""


_explain = None  # the handler in force: the C library keeps no reference to it


def _handle(explanation) -> None:
    """Let abort() write what `explanation()` returns, and exit with code 1."""
    global _explain

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(_number: int) -> None:
        try:
            os.write(2, f"\n{_PREFIX}{explanation()}\n".encode())
        finally:
            os._exit(1)

    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    set_handler(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    _explain = handler


@contextlib.contextmanager
def aborts_explained(seconds: int, later: str) -> Iterator[None]:
    """Around the start of a run's processes, which may take so many seconds; `later` is the sentence from then on.

    What jaxlib writes to standard error in the body is read for the sentence, and not shown.
    """
    if os.name != "posix":
        yield
        return
    shown = os.dup(2)
    with tempfile.TemporaryFile() as said:

        def explain() -> str:
            os.dup2(shown, 2)
            return missing(os.pread(said.fileno(), 2**20, 0).decode(errors="replace"), seconds)

        _handle(explain)
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(shown, 2)
            os.close(shown)
    _handle(lambda: later)


def missing(said: str, seconds: int) -> str:
    """Who did not come within so many seconds, from what jaxlib said of it."""
    named = re.search(r"timed out task names:\n((?:\S+\n)+)", said)
    if not named:
        return f"process 0, which coordinates the others, did not answer within {seconds} seconds"
    tasks = sorted((line.rpartition(":")[2] for line in named[1].split()), key=lambda task: (len(task), task))
    return f"{'process' if len(tasks) == 1 else 'processes'} {', '.join(tasks)} did not come within {seconds} seconds"
