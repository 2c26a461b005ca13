"""Compiled programs in a folder: the next start of a command takes them from there and neither traces nor compiles.

jax has a cache of its own. It saves the compiler's time but not the tracing, and of several processes it serves only
the first: its keys contain the numbers of the devices, which differ from process to process, and the other processes
do not write to it. So large programs are kept here as executables. The name of each file is a hash of everything that
determines the program. jax's cache lies beside them and has the small programs as well.

Loading an executable runs the code in the file: trust the folder as you trust the programs.
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
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh, NamedSharding

from sdejax.runtime import executables, jax_private
from sdejax.runtime.hardware import Device, cores
from sdejax.runtime.jit import program_store, use_program_store
from sdejax.runtime.prefetch import Prefetch
from sdejax.runtime.storage import Folder

_LIBRARIES = ("jax", "jaxlib", "flax", "diffrax", "equinox", "numpy")
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "EQX_ON_ERROR", "NPROC")
# Settings of jax that change no program.
_IRRELEVANT = re.compile("cache|recoverab|preemption|cpu_collectives|visible_devices|log_compiles|logging_level")
_UNUSED = 30 * 24 * 3600  # seconds without use after which the programs of an environment are deleted
_DIGEST = hashlib.sha256().digest_size
T = TypeVar("T")


class ProgramCache:
    """The programs of one environment, in a folder of its own.

    - `loaded` and `compiled` count the programs.
    - `waited` is how many seconds the last call waited for its results.
    - `once`: if True, each program runs only once and then returns the same result for any arguments. This is for
      callers who want the programs compiled and not their results.
    """

    def __init__(self, folder: Folder):
        self.folder = folder
        self.loaded = self.compiled = 0
        self.waited = 0.0
        self.once = False
        self._ready: dict[Any, Callable[..., Any]] = {}
        self._results: dict[Any, Any] = {}
        self._writable = True
        self._prefetch: Prefetch | None = None
        # All processes share a bucket, so process 0 writes for all. A disk may be of this process's machine only.
        self._writes = folder.local or jax.process_index() == 0

    def prefetch(self, job: str) -> None:
        """Begin to load the programs that the job of that name used last time."""
        self._prefetch = Prefetch(job, self._read, self._write if self._writes else lambda name, data: None)

    def call(
        self,
        function: Callable[..., Any],
        lower: Callable[..., jax.stages.Lowered],
        static_argnames: Iterable[str],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """function(*args, **kwargs) by its compiled program, which is loaded, or else compiled and written.

        **Arguments:**

        - `lower(*args, **kwargs)`: the program before it is compiled.
        - `static_argnames`: the arguments that are constants of the program.
        """
        names = list(inspect.signature(function).parameters)
        constants = {
            name: value for name, value in (*zip(names, args, strict=False), *kwargs.items()) if name in static_argnames
        }
        given = tuple(value for name, value in zip(names, args, strict=False) if name not in static_argnames)
        named = {name: value for name, value in kwargs.items() if name not in static_argnames}
        leaves, structure = jax.tree.flatten((given, named))
        layouts, devices = tuple(map(_layout, leaves)), _devices(leaves)
        key = (function, tuple(constants.items()), structure, layouts, tuple(devices))
        if self.once and key in self._results:
            return self._results[key]
        self.waited = 0.0
        if key in self._ready:
            return self._ready[key](*given, **named)
        name = _file_name(function, constants, structure, layouts)
        found = self._load(name, structure, devices, given, named) if name else None
        if found is None:
            program = self._compile(name, lower(*args, **kwargs), devices)
            found = program, program(*given, **named)
        self._ready[key], result = found
        if self.once:
            self._results[key] = result
        return result

    def _load(
        self, name: str, structure: Any, devices: Sequence[Device], given: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[jax.stages.Compiled, Any] | None:
        """The program of that name and its results, or None. A program is trusted only after it has run once."""
        try:
            prefetched = self._prefetch.take(name, devices) if self._prefetch else None
            program = executables.callable_program(prefetched or executables.load(self._read(name), devices), structure)
            began = time.perf_counter()
            result = jax.block_until_ready(program(*given, **named))
            self.waited = time.perf_counter() - began
        except Exception:  # whatever is wrong with the file, the program can be compiled
            return None
        self.loaded += 1
        return program, result

    def _compile(self, name: str | None, lowered: jax.stages.Lowered, devices: Sequence[Device]) -> jax.stages.Compiled:
        """The compiled program, which is written to the file `name` unless that is None."""
        self.compiled += 1
        program, here = jax_private.compiled_here(lowered)
        if name is None or not self._writes:
            return program
        try:
            # The CPU's backend does not write all functions of a program that it has loaded from jax's cache.
            if devices[0].platform == "cpu" and not here:
                program = jax_private.compile_afresh(lowered)
            data = executables.pack(program, devices)
        except Exception as error:  # some platforms cannot write programs, and some programs cannot be written
            reason = str(error).partition("\n")[0] or type(error).__name__
            print(f"warning: {name}: cannot be kept ({reason}); the next start compiles it again", file=sys.stderr)
        else:
            self._write(name, data)
        return program

    def remembered(self, name: str, told: str, make: Callable[[], T]) -> T:
        """make(), or its result at an earlier start. The text `told` and the environment must determine the result."""
        name = f"{name}-{_hash([told])[:32]}.pickle"
        with contextlib.suppress(Exception):  # there is no file, or it is damaged
            return pickle.loads(self._read(name))
        made = make()
        if self._writes:
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
        except Exception as error:  # an error of the disk or the bucket does not stop the job
            if self._writable:
                reason = getattr(error, "strerror", None) or error
                message = f"cache={self.folder.shown!r}: cannot be written ({reason})"
                print(f"warning: {message}; the next start compiles again", file=sys.stderr)
            self._writable = False


_FUNCTION = re.compile(r"(?<=<function )([\w.]+) at 0x[0-9a-f]+")  # a function of a module is known by its name


def _hash(texts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _file_name(function: Callable[..., Any], constants: dict[str, Any], structure: Any, layouts: Any) -> str | None:
    """The name of a program's file; None if an address in memory would be part of what the name is made from."""
    texts = [f"{function.__module__}.{function.__qualname__}", repr(constants), repr(layouts)]
    texts.append(_FUNCTION.sub(r"\1", str(structure)))
    if any(" at 0x" in text for text in texts):
        return None
    return f"{function.__name__.strip('_')}-{_hash(texts)[:32]}.program"


def _layout(leaf: Any) -> tuple[str, str]:
    """The shape and type of an argument, and how it is spread over devices, whichever these are."""
    if not isinstance(leaf, jax.Array) or not leaf.committed:
        return repr(jax.typeof(leaf)), ""
    return repr(jax.typeof(leaf)), str(leaf.sharding) if isinstance(leaf.sharding, NamedSharding) else "one"


def _devices(leaves: Iterable[Any]) -> list[Device]:
    """The devices that a program with these arguments runs on."""
    shardings = [leaf.sharding for leaf in leaves if isinstance(leaf, jax.Array) and leaf.committed]
    for sharding in shardings:
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
            return list(sharding.mesh.devices.flat)
    return list(shardings[0].device_set) if shardings else [jax.local_devices()[0]]


def environment() -> dict[str, Any] | None:
    """What all programs depend on: sources, versions, hardware, flags and jax's settings.

    None if this version of jax does not list its settings: then programs of one start must not serve another.
    """
    settings = jax_private.settings()
    if settings is None:
        return None
    device = jax.local_devices()[0]
    return {
        "sdejax": _sources(),
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        "platform": f"{device.platform} {device.client.platform_version}",
        "devices": f"{jax.local_device_count()} {device.device_kind}",
        "processor": f"{cores()} {_processor()}" if device.platform == "cpu" else "",
        "flags": {name: os.environ.get(name, "") for name in _FLAGS},
        "settings": {name: value for name, value in settings.items() if not _IRRELEVANT.search(name)},
    }


@functools.cache
def _sources() -> str:
    return hash_of_sources(Path(__file__).parents[1])


def hash_of_sources(root: Path) -> str:
    """A hash of the names and contents of all Python files under `root`.

    Other files of the library determine no program: type stubs are not run, and weights are arguments.
    """
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        found.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return found.hexdigest()[:16]


@functools.cache
def _processor() -> str:
    """The instructions that the processor has: a program that uses others would crash."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return _hash([next(line for line in lines if line.startswith(("flags", "Features")))])[:16]
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.processor()}"


def keep_programs(address: str, job: str = "") -> None:
    """From now on take programs from a folder on any disk or bucket, and write there what is compiled.

    This is for commands, which run only this library's code: the cache's keys cover no other code.

    **Arguments:**

    - `address`: the folder; "none" stops keeping programs.
    - `job`: a name. A thread at once begins to load the programs that the job of that name used last time.

    **Raises:** `ValueError` if the folder cannot be written.
    """
    use_program_store(None)
    if address == "none":
        return
    about = environment()
    if about is None:
        print(
            f"warning: cache={address!r}: programs are not kept, because jax {jax.__version__} does not list its "
            "settings; each start compiles them again",
            file=sys.stderr,
        )
        return
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
        _delete_unused(Path(whole.path), Path(folder.path))
    programs = ProgramCache(folder)
    use_program_store(programs)
    if job:
        programs.prefetch(job)
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]  # else it is the person's choice
        jax.config.update("jax_compilation_cache_dir", folder.show("jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _delete_unused(cache: Path, used: Path) -> None:
    """Delete the programs of environments that no command has used for a month, and files that were never finished."""
    with contextlib.suppress(OSError):  # the folder may be read-only
        os.utime(used / "about.json")
    for found in [*cache.glob("[0-9a-f]" * 16 + "/about.json"), *used.glob(".*.part")]:
        with contextlib.suppress(OSError):
            if time.time() - found.stat().st_mtime > _UNUSED:
                found.unlink() if found.suffix == ".part" else shutil.rmtree(found.parent)


def kept_programs() -> ProgramCache | None:
    """The cache that this process takes its programs from; None if `keep_programs` named none."""
    store = program_store()
    return store if isinstance(store, ProgramCache) else None
