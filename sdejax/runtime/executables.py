"""Compiled programs as bytes, and back, on devices of other numbers than those of the process that wrote them.

The way back has two halves. `load` takes nearly all the time, without Python's lock and without a module of this
library or of flax: a thread can do it while these are imported. `callable_program` needs them.

What jax has for it fixes the numbers; beneath it are names that are not public. So this file is imported where it is
used, and where it cannot be there are no such programs.
"""

import io
import pickle
from typing import Any, NamedTuple

import jax
import numpy as np
from jax._src import compiler
from jax.experimental import serialize_executable


def pack(program: Any, devices: list[Any]) -> bytes:
    """A compiled program that runs on these devices. Raises where the platform, or the program, cannot be written."""
    executable, _, results = serialize_executable.serialize(program)
    return pickle.dumps((executable, pickle.dumps(results), [device.id for device in devices]))


class Loaded(NamedTuple):
    """An executable on its devices, and what is known of its arguments and results."""

    executable: Any
    arguments: list[Any]
    no_kwargs: bool
    results: bytes


def load(data: bytes, devices: list[Any]) -> Loaded:
    """The executable on these devices. Raises where these bytes are none, or one of another number of devices."""
    executable, results, numbers = pickle.loads(data)
    unloaded, arguments, no_kwargs = _Unpickler(executable, numbers, devices).load()
    return Loaded(unloaded.load(), arguments, no_kwargs, results)


def callable_program(loaded: Loaded, structure: Any) -> Any:
    """The program, to be called with arguments of that structure."""
    arguments, results = structure.unflatten(loaded.arguments), pickle.loads(loaded.results)
    return jax.stages.Compiled(loaded.executable, [], arguments, results, no_kwargs=loaded.no_kwargs)


class _Unpickler(serialize_executable._JaxPjrtUnpickler):
    """jax's, for devices that had other `numbers`."""

    def __init__(self, data: bytes, numbers: list[int], devices: list[Any]):
        super().__init__(io.BytesIO(data), devices[0].client, devices)
        self.devices_by_id = dict(zip(numbers, devices, strict=True))
        own = [device.id for device in devices]
        self.options = None
        if own != numbers:
            self.options = compiler.get_compile_options(1, len(own), device_assignment=np.array([own]))

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "exec":
            return self.backend.deserialize_executable(pid[1], self.execution_devices, self.options)
        return super().persistent_load(pid)
