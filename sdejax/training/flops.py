"""The arithmetic of a training step, and the share of the devices' peak that a run reaches."""

import jax

from sdejax.runtime.hardware import Device, chip_of


def peak_flops(device: Device) -> float | None:
    """The peak of a device in dense bfloat16 FLOP/s; None if it is unknown, as for a CPU."""
    chip = chip_of(device)
    return None if chip is None else chip.flops


def step_flops(lowered: jax.stages.Lowered) -> float | None:
    """The FLOPs of a lowered program on all devices; None if the backend does not report them."""
    costs = lowered.cost_analysis()
    flops = (costs or {}).get("flops", 0.0)
    return float(flops) if flops > 0.0 else None


def utilisation(flops: float | None, seconds: float) -> float | None:
    """The share of the peak of all devices together, if they compute `flops` in `seconds`; None if it is unknown."""
    peak = peak_flops(jax.devices()[0])
    return None if flops is None or peak is None else flops / seconds / (peak * jax.device_count())
