"""What a step costs in arithmetic, and what share of the device's best that is."""

from typing import Any

import jax

# Dense bfloat16 FLOP/s of one device as jax counts devices, from the makers' data sheets.
_PEAK = {
    "TPU v3": 61e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


def peak_flops(device: Any) -> float | None:
    """The dense bfloat16 FLOP/s of a device; None where they are not known, as on a CPU."""
    names = [name for name in _PEAK if device.device_kind.startswith(name)]
    return _PEAK[max(names, key=len)] if names else None


def step_flops(lowered: Any) -> float | None:
    """The FLOPs of a lowered program on all devices, before it is compiled; None where the backend does not tell."""
    costs = lowered.cost_analysis()
    flops = (costs or {}).get("flops", 0.0)
    return float(flops) if flops > 0.0 else None


def utilisation(flops: float | None, seconds: float) -> float | None:
    """The share of the peak that all devices together reach with `flops` in `seconds`."""
    peak = peak_flops(jax.devices()[0])
    return None if flops is None or peak is None else flops / seconds / (peak * jax.device_count())
