"""Everything that this library uses of jax and jaxlib and that is not public, in one file.

The other files import it from here. A later version of jax may lack any of it. Then something is slower or a message
less helpful, but no result changes and nothing crashes. Each item says what happens without it:

- `Connection`, from `jax._src.distributed.global_state`: several processes cannot share a job, and stop with one
  sentence before they start. One process needs no connection, nor does training.
- `Connection.wait_until_alone`, by `get_live_nodes` of the client: process 0 waits three seconds for the others to
  leave, even if they need more or less.
- `registration_limit`, by `jax._src.lib._jax.get_distributed_runtime_service`: processes that wait for one that never
  comes wait as long as jax does, and jax does not name it.
- `explained_aborts`, by the C library's `signal` and by jaxlib's messages: the sentence does not say which process is
  missing, or jaxlib prints its stack trace instead.
- `serialize` and `deserialize`, from `jax.experimental.serialize_executable` and `jax._src.compiler`, and
  `callable_program`, by the constructor of `jax.stages.Compiled`: each start compiles its programs again.
- `settings`, from `jax.config.values`: the programs of one start are not kept for the next.
- `update_setting`, for settings that a version may lack: the setting keeps jax's default.
- `compiled_here`, by the names of two events: a program for CPUs is compiled twice before it is written to a file.
- `compile_afresh`, by `compilation_cache.reset_cache`: a program that came from jax's cache is not written to a file.
"""

import contextlib
import ctypes
import dataclasses
import functools
import importlib
import io
import operator
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import jax
import numpy as np

from sdejax.runtime.hardware import Device

with contextlib.suppress(ImportError):  # imported here because a thread that imports it could deadlock with this one
    import jax.experimental.serialize_executable

T = TypeVar("T")
_LEAVING = 3.0  # seconds that process 0 gives the others to leave if it cannot ask whether they have left
_PREFIX = "error: "


class Missing(Exception):
    """This version of jax does not have a private name that is needed."""


def _private(module: str, name: str) -> Any:
    """A private name of jax, such as "f", or "C.f" for an attribute of C.

    **Raises:** `Missing` if this version of jax does not have it.
    """
    try:
        return operator.attrgetter(name)(importlib.import_module(module))
    except (ImportError, AttributeError):
        raise Missing(f"{module}.{name}") from None


# Messages between processes


class KeyValueStore(Protocol):
    """The store of keys and values that the coordinator keeps for the processes of a run."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool) -> None: ...

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]: ...


@dataclasses.dataclass(frozen=True)
class Connection:
    """The connection of process `index` of `count` to the coordinator of the run."""

    store: KeyValueStore
    index: int
    count: int

    def wait_until_alone(self) -> None:
        """Wait, without a limit, until no other process is connected."""
        ask = getattr(self.store, "get_live_nodes", None)
        if ask is None:
            time.sleep(_LEAVING)
        else:
            ask(list(range(self.count)))


def connection() -> Connection | None:
    """The connection of this process; None if it is the only one.

    **Raises:** `Missing` if there are several processes and this version of jax has no connection for us.
    """
    try:
        state = _private("jax._src.distributed", "global_state")
        client, index, count = state.client, state.process_id, state.num_processes
        if client is not None and not (hasattr(client, "key_value_set") and hasattr(client, "key_value_dir_get")):
            raise AttributeError
    except (Missing, AttributeError):
        if jax.distributed.is_initialized():
            raise Missing("jax._src.distributed.global_state") from None
        return None
    return None if client is None else Connection(client, index, count)


def check_connections() -> None:
    """**Raises:** `Missing` if this version of jax would give processes no `connection`."""
    state = _private("jax._src.distributed", "global_state")
    for name in ("client", "process_id", "num_processes"):
        if not hasattr(state, name):
            raise Missing(f"jax._src.distributed.global_state.{name}")


@contextlib.contextmanager
def registration_limit(seconds: int) -> Iterator[None]:
    """Let the coordinator wait at most `seconds` for the others. `initialize` of jax has no argument for it."""
    try:
        library = _private("jax._src.lib", "_jax")
        make = _private("jax._src.lib", "_jax.get_distributed_runtime_service")
    except Missing:
        yield
        return

    @functools.wraps(make)
    def limited(*args: Any, **kwargs: Any) -> Any:
        with contextlib.suppress(TypeError):  # this version has no such argument
            return make(*args, **kwargs, cluster_register_timeout=seconds)
        return make(*args, **kwargs)

    library.get_distributed_runtime_service = limited
    try:
        yield
    finally:
        library.get_distributed_runtime_service = make


# jaxlib's abort(): it ends a process that way if the processes of a run do not find each other and if their coordinator
# is gone. Python sees no exception. Only a signal handler in C can still write something.

_handler: Any = None  # the handler in force, kept here because the C library keeps no reference to it


def _on_abort(explanation: Callable[[], str]) -> None:
    """Let abort() write `explanation()` to standard error and exit with code 1."""
    global _handler

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(_number: int) -> None:
        try:
            os.write(2, f"\n{_PREFIX}{explanation()}\n".encode())
        finally:
            os._exit(1)

    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    set_handler(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    _handler = handler


@contextlib.contextmanager
def explained_aborts(seconds: int, later: str) -> Iterator[None]:
    """Wraps the start of a run's processes, which may take `seconds`. An abort() in it prints who is missing.

    An abort() after it prints the sentence `later`. What jaxlib writes to standard error in the body is not shown: the
    handler reads it to learn who is missing.
    """
    try:
        _on_abort(lambda: later)
    except (OSError, AttributeError, TypeError):  # no C library whose signal() Python can call, as on Windows
        yield
        return
    shown = os.dup(2)
    with tempfile.TemporaryFile() as messages:

        def explain() -> str:
            os.dup2(shown, 2)
            return who_is_missing(os.pread(messages.fileno(), 2**20, 0).decode(errors="replace"), seconds)

        _on_abort(explain)
        os.dup2(messages.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(shown, 2)
            os.close(shown)
    _on_abort(lambda: later)


def who_is_missing(messages: str, seconds: int) -> str:
    """A sentence that says which processes did not come within `seconds`, from what jaxlib wrote."""
    named = re.search(r"timed out task names:\n((?:\S+\n)+)", messages)
    if named:
        tasks = sorted((line.rpartition(":")[2] for line in named[1].split()), key=lambda task: (len(task), task))
        who = f"{'process' if len(tasks) == 1 else 'processes'} {', '.join(tasks)}"
        return f"{who} did not come within {seconds} seconds"
    if "RegisterTask" in messages and "coordination_service" not in messages:  # the latter is in process 0
        return f"process 0, which coordinates the others, did not answer within {seconds} seconds"
    return f"the processes of this run did not find each other within {seconds} seconds"


# Compiled programs as bytes


def serialize(program: jax.stages.Compiled) -> tuple[bytes, Any]:
    """A compiled program as bytes, and the structure of its results.

    **Raises:** any exception if the platform, the program or this version of jax does not allow it.
    """
    executable, _, results = _private("jax.experimental.serialize_executable", "serialize")(program)
    return executable, results


def deserialize(data: bytes, numbers: Sequence[int], devices: Sequence[Device]) -> tuple[Any, list[Any], bool]:
    """An executable from bytes, for `devices` in the place of those that had these `numbers` when it was written.

    jax's own function takes only devices with the same numbers; the devices of other processes have others.

    **Returns:** the executable, what is known of each argument, and whether it takes no keyword arguments.

    **Raises:** any exception if the bytes are not an executable for so many devices, or this version of jax cannot
    load it.
    """
    base = _private("jax.experimental.serialize_executable", "_JaxPjrtUnpickler")
    own, options = [device.id for device in devices], None
    if own != list(numbers):
        options = _private("jax._src.compiler", "get_compile_options")(1, len(own), device_assignment=np.array([own]))

    class Unpickler(base):
        def persistent_load(self, pid: Any) -> Any:
            if pid[0] == "exec":
                return self.backend.deserialize_executable(pid[1], self.execution_devices, options)
            return super().persistent_load(pid)

    unpickler = Unpickler(io.BytesIO(data), devices[0].client, devices)
    unpickler.devices_by_id = dict(zip(numbers, devices, strict=True))
    unloaded, arguments, no_kwargs = unpickler.load()
    return unloaded.load(), arguments, no_kwargs


def callable_program(executable: Any, arguments: Any, results: Any, no_kwargs: bool) -> jax.stages.Compiled:
    """A loaded executable as a function of arguments of that structure."""
    return jax.stages.Compiled(executable, [], arguments, results, no_kwargs=no_kwargs)


# jax's settings and its own cache


def settings() -> dict[str, str] | None:
    """The values of all of jax's settings by name, as text; None if this version of jax does not list them."""
    try:
        return {name: repr(value) for name, value in jax.config.values.items()}
    except AttributeError:
        return None


def update_setting(name: str, value: bool | str | None) -> None:
    """Set one of jax's settings if this version of jax has it."""
    with contextlib.suppress(AttributeError, ValueError):
        jax.config.update(name, value)


_ASKED, _HIT = "/jax/compilation_cache/compile_requests_use_cache", "/jax/compilation_cache/cache_hits"
_events = {_ASKED: 0, _HIT: 0}


def _count(event: str, **_: Any) -> None:
    if event in _events:
        _events[event] += 1


jax.monitoring.register_event_listener(_count)


def compiled_here(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, bool]:
    """The compiled program, and whether it surely comes from the compiler and not from jax's own cache."""
    before = dict(_events)
    program = lowered.compile()
    if not jax.config.jax_enable_compilation_cache or jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        return program, True
    return program, _events[_ASKED] > before[_ASKED] and _events[_HIT] == before[_HIT]


def compile_afresh(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """The program from the compiler, even if jax's own cache has it.

    **Raises:** `Missing` if this version of jax cannot do without its cache.
    """
    reset = _private("jax.experimental.compilation_cache.compilation_cache", "reset_cache")
    jax.config.update("jax_enable_compilation_cache", False)
    reset()
    try:
        # jax returns what it compiled last unless an option is given. This one has its default value.
        return lowered.compile({"xla_dump_hlo_as_text": False})
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
        reset()
