"""Compiled programs as bytes, and back to programs, also on devices with other numbers.

Reading has two halves. `load` takes nearly all the time. It needs neither Python's lock nor any other module of this
library or of flax, so that a thread can call it while these are imported. `callable_program` needs them.
"""

import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from sdejax.runtime import jax_private
from sdejax.runtime.hardware import Device


class Loaded(NamedTuple):
    """An executable on its devices, what is known of each argument, and the pickled structure of its results."""

    executable: Any
    arguments: list[Any]
    no_kwargs: bool
    results: bytes


def pack(program: jax.stages.Compiled, devices: Sequence[Device]) -> bytes:
    """A compiled program that runs on `devices`, as bytes.

    **Raises:** any exception if the platform, the program or this version of jax does not allow it.
    """
    executable, results = jax_private.serialize(program)
    return pickle.dumps((executable, pickle.dumps(results), [device.id for device in devices]))


def load(data: bytes, devices: Sequence[Device]) -> Loaded:
    """The executable in the bytes of `pack`, on `devices`.

    **Raises:** any exception if the bytes are damaged, are meant for another number of devices, or cannot be loaded.
    """
    executable, results, numbers = pickle.loads(data)
    return Loaded(*jax_private.deserialize(executable, numbers, devices), results)


def callable_program(loaded: Loaded, structure: Any) -> jax.stages.Compiled:
    """The program, to be called with arguments of this tree structure."""
    arguments, results = structure.unflatten(loaded.arguments), pickle.loads(loaded.results)
    return jax_private.callable_program(loaded.executable, arguments, results, loaded.no_kwargs)
