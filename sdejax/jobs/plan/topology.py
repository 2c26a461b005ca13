"""Chips that are not here, by a name such as v5e:4x4 or h100:8.

libtpu holds the whole compiler for TPUs and needs no TPU. So a TPU's program is compiled for the TPU, and what it takes
is read from the program that would run. XLA's compiler for GPUs needs a GPU. For GPUs the program is compiled for as
many made-up CPU devices instead. That tells what hardly depends on the compiler: the arithmetic, the memory of the
arguments, and the communication between devices.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax

from sdejax.runtime.hardware import CHIPS, Chip, Device

_TPUS = ("v4", "v5e", "v5p", "v6e")
_GPUS = tuple(name for name, chip in CHIPS.items() if chip.kind.startswith("NVIDIA"))

# Without these settings libtpu asks a metadata server that does not exist, complains on standard error, and writes logs
# to /tmp. It also refuses to be loaded by two processes at once, or after a process that was killed, as if both wanted
# the same TPU.
_WITHOUT_A_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips to plan for.

    `devices` stand in for the chips: descriptions of TPUs to compile for if `tpu`, else CPU devices.
    """

    name: str
    chip: Chip
    devices: tuple[Device, ...]
    tpu: bool


def topology_of(name: str) -> Topology:
    """The chips of a name such as v5e:4x4, v5p:2x2x4 or h100:8.

    For a TPU it loads libtpu and sets environment variables that keep libtpu from looking for a TPU. For GPUs it sets
    the number of CPU devices, which is only possible before jax's first computation.

    **Raises:** `ValueError` for another chip, for a shape that this TPU is not built in, if libtpu is missing, or if
    this process already uses fewer CPU devices.
    """
    chip, _, shape = name.partition(":")
    if chip in _TPUS and re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", shape):
        return Topology(name, CHIPS[chip], _tpu_devices(name, chip, [int(size) for size in shape.split("x")]), True)
    if chip in _GPUS and re.fullmatch(r"[1-9]\d*", shape):
        return Topology(name, CHIPS[chip], _cpu_devices(name, int(shape)), False)
    raise ValueError(
        f"topology={name!r}: must be a TPU and its shape, such as v5e:4x4 or v5p:2x2x4 (of {', '.join(_TPUS)}), "
        f"or a GPU and how many, such as h100:8 (of {', '.join(_GPUS)})"
    )


def _tpu_devices(name: str, chip: str, shape: Sequence[int]) -> tuple[Device, ...]:
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(f"topology={name!r}: needs the TPU's compiler, libtpu; pip install 'sdejax[plan]'")
    for variable, value in _WITHOUT_A_TPU.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if chip == "v4":  # jax has one device for the two cores of a chip
        options["chip_config_name"] = "megacore"
    if math.prod(shape) < 4:  # less than a host, which has four chips by default
        options["chips_per_host_bounds"] = (*shape, 1, 1)[:3]
    try:
        return tuple(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"topology={name!r}: libtpu refuses it: {str(error).splitlines()[0]}") from None


def _cpu_devices(name: str, count: int) -> tuple[Device, ...]:
    with contextlib.suppress(RuntimeError):  # jax has begun, perhaps with enough devices
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ValueError(
            f"topology={name!r}: needs {count} CPU devices to count on, but jax has begun with {len(devices)}"
        )
    return tuple(devices[:count])
