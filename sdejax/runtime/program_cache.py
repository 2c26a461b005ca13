"""Compiled programs in a folder, from which a command's next start takes them: it neither traces nor compiles.

jax's own persistent cache spares the compiler but not the tracing, and of several processes it serves only the first
(the others' devices have other numbers, which its keys name, and they never write). So the large programs are kept
here as executables, each under a hash of all that it follows from; jax's cache beside them has the small ones too.

Loading an executable runs what the file says: the folder is to be trusted as the programs themselves are.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import inspect
import json
import os
import pickle
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding

from sdejax.runtime.hardware import cores
from sdejax.runtime.jit import program_store, use_program_store
from sdejax.runtime.prefetch import Ahead
from sdejax.runtime.storage import Folder

_LIBRARIES = ("jax", "jaxlib", "flax", "diffrax", "equinox", "numpy")
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "EQX_ON_ERROR", "NPROC")
# Settings of jax that change no program.
_BESIDE = re.compile("cache|recoverab|preemption|cpu_collectives|visible_devices|log_compiles|logging_level")
_UNUSED = 30 * 24 * 3600  # seconds after which the programs of another environment are thrown away
T = TypeVar("T")
_DIGEST = hashlib.sha256().digest_size


class Programs:
    """The programs of one environment, in a folder of its own.

    `loaded` and `compiled` count them, `waited` is how many seconds the last call has waited for its results. `once` is
    for those who want the programs and not what they compute: each runs once, and gives the same result ever after.
    """

    def __init__(self, folder: Folder):
        self.folder = folder
        self.loaded = self.compiled = 0
        self.waited = 0.0
        self.once = False
        self._ready: dict[Any, Callable[..., Any]] = {}
        self._results: dict[Any, Any] = {}
        self._writable = True
        self._ahead: Ahead | None = None
        # A bucket is common to all processes; a disk may be of this process's machine alone.
        self._keeps = folder.local or jax.process_index() == 0

    def expect(self, job: str) -> None:
        """Begin to load what the job of that name had last time."""
        self._ahead = Ahead(job, self._read, self._write if self._keeps else lambda name, data: None)

    def call(
        self, function: Callable[..., Any], lower: Callable[..., Any], static: Iterable[str], args: Any, kwargs: Any
    ) -> Any:
        """function(*args, **kwargs) by its program, which is loaded, or else compiled from `lower`'s and kept."""
        names = list(inspect.signature(function).parameters)
        fixed = {name: value for name, value in (*zip(names, args, strict=False), *kwargs.items()) if name in static}
        given = tuple(value for name, value in zip(names, args, strict=False) if name not in static)
        named = {name: value for name, value in kwargs.items() if name not in static}
        leaves, structure = jax.tree.flatten((given, named))
        places = tuple(map(_place, leaves))
        devices = _devices(leaves)
        asked = (function, tuple(fixed.items()), structure, places, tuple(devices))
        if self.once and asked in self._results:
            return self._results[asked]
        self.waited = 0.0
        if asked in self._ready:
            return self._ready[asked](*given, **named)
        name = _name(function, fixed, structure, places)
        found = self._loaded(name, structure, devices, given, named) if name else None
        if found is None:
            keeps = name is not None and self._keeps
            program = _compiled(lower(*args, **kwargs), keeps and devices[0].platform == "cpu")
            self.compiled += 1
            if name and keeps:
                self._keep(name, program, devices)
            found = program, program(*given, **named)
        self._ready[asked], result = found
        if self.once:
            self._results[asked] = result
        return result

    def _loaded(self, name: str, structure: Any, devices: list[Any], given: Any, named: Any) -> Any:
        """The program of that name and what it gives, or None: it is not trusted until it has run."""
        try:
            from sdejax.runtime.executables import callable_program, load

            ahead = self._ahead and self._ahead.take(name, devices)
            program = callable_program(ahead or load(self._read(name), devices), structure)
            began = time.perf_counter()
            result = jax.block_until_ready(program(*given, **named))
            self.waited = time.perf_counter() - began
        except Exception:  # whatever is wrong with it, it can be compiled
            return None
        self.loaded += 1
        return program, result

    def _keep(self, name: str, program: Any, devices: list[Any]) -> None:
        try:
            from sdejax.runtime.executables import pack

            data = pack(program, devices)
        except Exception as error:  # not every platform can write its programs, and not every program can be written
            reason = str(error).partition("\n")[0] or type(error).__name__
            print(f"warning: {name}: cannot be kept ({reason}); the next start compiles it again", file=sys.stderr)
            return
        self._write(name, data)

    def remembered(self, name: str, told: str, make: Callable[[], T]) -> T:
        """make(), which follows from `told` and from the environment, or what it was at an earlier start."""
        name = f"{name}-{_hash([told])[:32]}.pickle"
        with contextlib.suppress(Exception):  # it is not there, or damaged
            return pickle.loads(self._read(name))
        made = make()
        if self._keeps:
            self._write(name, pickle.dumps(made))
        return made

    def _read(self, name: str) -> bytes:
        data = self.folder.read(name)
        if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
            raise ValueError(f"{name}: is damaged")
        return data[_DIGEST:]

    def _write(self, name: str, data: bytes) -> None:
        try:
            self.folder.write(name, hashlib.sha256(data).digest() + data)
        except Exception as error:  # of a disk or a bucket: the job goes on without
            if self._writable:
                reason = getattr(error, "strerror", None) or error
                told = f"cache={self.folder.shown!r}: cannot be written ({reason})"
                print(f"warning: {told}; the next start compiles again", file=sys.stderr)
            self._writable = False


_FUNCTION = re.compile(r"(?<=<function )([\w.]+) at 0x[0-9a-f]+")  # one of a module: its name tells which


def _hash(told: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(told).encode()).hexdigest()


def _name(function: Any, fixed: dict[str, Any], structure: Any, places: Any) -> str | None:
    """The name of a program's file; None where an address in memory is part of what it follows from."""
    told = [f"{function.__module__}.{function.__qualname__}", repr(fixed), repr(places)]
    told.append(_FUNCTION.sub(r"\1", str(structure)))
    kept = not any(" at 0x" in text for text in told)
    return f"{function.__name__.strip('_')}-{_hash(told)[:32]}.program" if kept else None


def _place(leaf: Any) -> tuple[str, str]:
    """The shape and type of an argument, and how it lies on the devices, whichever they are."""
    if not isinstance(leaf, jax.Array) or not leaf.committed:
        return repr(jax.typeof(leaf)), ""
    return repr(jax.typeof(leaf)), str(leaf.sharding) if isinstance(leaf.sharding, NamedSharding) else "one"


def _devices(leaves: Iterable[Any]) -> list[Any]:
    """The devices that a program with these arguments runs on."""
    placed = [leaf.sharding for leaf in leaves if isinstance(leaf, jax.Array) and leaf.committed]
    meshes = [sharding.mesh for sharding in placed if isinstance(sharding, NamedSharding)]
    if meshes:
        return list(meshes[0].devices.flat)  # pyright: ignore[reportOptionalMemberAccess]
    return list(placed[0].device_set) if placed else [jax.local_devices()[0]]


def _compiled(lowered: Any, whole: bool) -> Any:
    """The program, `whole` where a CPU's is to be written; jax's cache has it as well."""
    before = _hits
    program = lowered.compile()
    if not whole or _hits == before:
        return program
    # What the CPU's backend has loaded it does not write whole: some of its functions would be missing.
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        # The option says what is so already; without one jax would give what it has just compiled.
        return lowered.compile({"xla_dump_hlo_as_text": False})
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
        compilation_cache.reset_cache()


_hits = 0


def _count_hits(event: str, **_: Any) -> None:
    global _hits
    _hits += event == "/jax/compilation_cache/cache_hits"


jax.monitoring.register_event_listener(_count_hits)


def environment() -> dict[str, Any]:
    """What all programs follow from: sources, versions, hardware, flags, jax's settings."""
    device = jax.local_devices()[0]
    return {
        "sdejax": _sources(),
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        "platform": f"{device.platform} {device.client.platform_version}",
        "devices": f"{jax.local_device_count()} {device.device_kind}",
        "processor": f"{cores()} {_processor()}" if device.platform == "cpu" else "",
        "flags": {name: os.environ.get(name, "") for name in _FLAGS},
        "settings": {name: repr(value) for name, value in jax.config.values.items() if not _BESIDE.search(name)},
    }


@functools.cache
def _sources() -> str:
    """A hash of this library."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


@functools.cache
def _processor() -> str:
    """What the processor can do: a program compiled for more of it would stop this one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return _hash([next(line for line in lines if line.startswith(("flags", "Features")))])[:16]
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.processor()}"


def keep_programs(address: str, job: str = "") -> None:
    """Take programs from a folder on any disk or bucket, and keep there what is compiled; "none" for no more.

    Those that a `job` of that name had last time are loaded at once, in a thread.

    For commands, whose code is this library's: a file's name follows from that, and from no code of others.

    **Raises:** `ValueError` where the folder cannot be made.
    """
    use_program_store(None)
    if address == "none":
        return
    about = environment()
    whole = Folder.open(address, "cache")
    own = f"{address.rstrip('/')}/{_hash([json.dumps(about, sort_keys=True)])[:16]}"
    folder = Folder.open(own, "cache")
    try:
        folder.files.makedirs(folder.path, exist_ok=True)
        if "about.json" not in folder.sizes():
            folder.write("about.json", (json.dumps(about, indent=1) + "\n").encode())
    except OSError as error:
        raise ValueError(f"cache={address!r}: cannot be written ({error.strerror or error})") from None
    if whole.local:
        _throw_away(Path(whole.path), Path(folder.path))
    programs = Programs(folder)
    use_program_store(programs)
    if job:
        programs.expect(job)
    if jax.config.values["jax_compilation_cache_dir"] is None:  # a person's own choice stays
        jax.config.update("jax_compilation_cache_dir", folder.show("jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _throw_away(cache: Path, used: Path) -> None:
    """What no command has touched for a month: the programs of an environment, or a file that was never finished."""
    with contextlib.suppress(OSError):  # a folder that is only read
        os.utime(used / "about.json")
    for found in [*cache.glob("[0-9a-f]" * 16 + "/about.json"), *used.glob(".*.part")]:
        with contextlib.suppress(OSError):
            if time.time() - found.stat().st_mtime > _UNUSED:
                found.unlink() if found.suffix == ".part" else shutil.rmtree(found.parent)


def kept_programs() -> Programs | None:
    """The programs that `keep_programs` opened, or None."""
    store = program_store()
    return store if isinstance(store, Programs) else None
