"""What accelerators can do at most, from their data sheets, and how many cores this machine has.

Sources: docs.cloud.google.com/tpu/docs, the pages of v3, v4, v5e, v5p and v6e; NVIDIA's data sheets of the A100 (40 GB
and 80 GB), H100 (SXM, PCIe, NVL), H200 and HGX B200. Dense bfloat16, without sparsity.
"""

import dataclasses
import os
import sys
from typing import Any, Protocol

GIB = 2**30


class Device(Protocol):
    """A device of jax. Its own class has no public name that type checkers understand."""

    @property
    def id(self) -> int: ...
    @property
    def platform(self) -> str: ...
    @property
    def device_kind(self) -> str: ...
    @property
    def client(self) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as jax counts devices: a core of TPU v3, a whole chip of any other.

    - `kind`: how `device.device_kind` begins.
    - `flops`: bfloat16 FLOP/s.
    - `memory`: bytes. The sheets write GB and mean GiB, which is what the devices report.
    - `bandwidth`: bytes/s of that memory.
    """

    kind: str
    flops: float
    memory: int
    bandwidth: float


CHIPS = {
    "v3": Chip("TPU v3", 61e12, 16 * GIB, 450e9),
    "v4": Chip("TPU v4", 275e12, 32 * GIB, 1228e9),
    "v5e": Chip("TPU v5 lite", 197e12, 16 * GIB, 819e9),
    "v5p": Chip("TPU v5", 459e12, 95 * GIB, 2765e9),
    "v6e": Chip("TPU v6 lite", 918e12, 32 * GIB, 1640e9),
    "a100-40gb": Chip("NVIDIA A100-SXM4-40GB", 312e12, 40 * GIB, 1555e9),
    "a100": Chip("NVIDIA A100", 312e12, 80 * GIB, 2039e9),
    "h100-pcie": Chip("NVIDIA H100 PCIe", 756e12, 80 * GIB, 2000e9),
    "h100-nvl": Chip("NVIDIA H100 NVL", 835e12, 94 * GIB, 3900e9),
    "h100": Chip("NVIDIA H100", 989e12, 80 * GIB, 3350e9),
    "h200": Chip("NVIDIA H200", 989e12, 141 * GIB, 4800e9),
    "b200": Chip("NVIDIA B200", 2250e12, 180 * GIB, 8000e9),
}
_OTHER_NAMES = {"TPU v5e": "v5e", "TPU v5p": "v5p", "TPU v6e": "v6e"}  # other versions of jax may use these


def chip_of(device: Device) -> Chip | None:
    """The data sheet of a jax device; None if there is none, as for a CPU."""
    kinds = {chip.kind: chip for chip in CHIPS.values()} | {kind: CHIPS[name] for kind, name in _OTHER_NAMES.items()}
    fitting = [kind for kind in kinds if device.device_kind.startswith(kind)]
    return kinds[max(fitting, key=len)] if fitting else None


def cores() -> int:
    """How many CPU cores this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
