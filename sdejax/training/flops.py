"""What a step costs in arithmetic, and what share of the device's best that is."""

from typing import Any

import jax

from sdejax.runtime.hardware import chip_of


def peak_flops(device: Any) -> float | None:
    """The dense bfloat16 FLOP/s of a device; None where they are not known, as on a CPU."""
    chip = chip_of(device)
    return None if chip is None else chip.flops


def step_flops(lowered: Any) -> float | None:
    """The FLOPs of a lowered program on all devices, before it is compiled; None where the backend does not tell."""
    costs = lowered.cost_analysis()
    flops = (costs or {}).get("flops", 0.0)
    return float(flops) if flops > 0.0 else None


def utilisation(flops: float | None, seconds: float) -> float | None:
    """The share of the peak that all devices together reach with `flops` in `seconds`."""
    peak = peak_flops(jax.devices()[0])
    return None if flops is None or peak is None else flops / seconds / (peak * jax.device_count())
