"""Compiled programs as bytes, and back, on devices of other numbers than those of the process that wrote them.

What jax has for it fixes the numbers; beneath it are names that are not public. So this file is imported where it is
used, and where it cannot be there are no such programs.
"""

import io
import pickle
from typing import Any

import jax
import numpy as np
from jax._src import compiler
from jax.experimental import serialize_executable


def pack(program: Any, devices: list[Any]) -> bytes:
    """A compiled program that runs on these devices. Raises where the platform, or the program, cannot be written."""
    executable, _, results = serialize_executable.serialize(program)
    return pickle.dumps((executable, results, [device.id for device in devices]))


def unpack(data: bytes, arguments: Any, devices: list[Any]) -> Any:
    """The program on these devices; `arguments` is the structure of what it is called with."""
    executable, results, numbers = pickle.loads(data)
    unloaded, given, no_kwargs = _Unpickler(executable, numbers, devices).load()
    return jax.stages.Compiled(unloaded.load(), [], arguments.unflatten(given), results, no_kwargs=no_kwargs)


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
