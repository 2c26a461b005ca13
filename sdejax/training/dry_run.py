"""`sdejax train CONFIG --dry-run`: what a run needs, found without training."""

import math
from collections.abc import Sequence
from typing import Protocol

import jax

from sdejax.training.flops import peak_flops, step_flops
from sdejax.training.setup import Setup


def describe(setup: Setup) -> str:
    """Describe a run as text: its parameters, memory per device, FLOPs per step, steps per epoch and sharding."""
    config, mesh, model = setup.config, setup.mesh, setup.model
    images = len(setup.images.names)
    lowered = setup.step.lower(setup.abstract, *setup.abstract_inputs())
    flops, peak = step_flops(lowered), peak_flops(jax.devices()[0])
    memory = lowered.compile().memory_analysis()
    state = sum(_bytes_per_device(leaf) for leaf in jax.tree.leaves(setup.abstract))
    leaves = jax.tree.leaves(setup.abstract.params)
    sharded = [leaf for leaf in leaves if not leaf.sharding.is_fully_replicated]
    lines = {
        "config": config.name,
        "parameters": f"{model.parameter_count / 1e6:.3f} M",
        "images": f"{images}, {'with' if config.captions else 'without'} captions",
        "held-out images": "none" if setup.held_out is None else str(len(setup.held_out.names)),
        "steps": f"{config.steps} of {config.batch} images, {config.steps * config.batch / images:.1f} epochs",
        "steps per epoch": f"{images / config.batch:.1f}",
        "devices": f"{mesh.size} x {jax.devices()[0].device_kind} of {jax.process_count()} process(es): "
        + ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items()),
        "state per device": f"{state / 2**20:.1f} MiB (parameters, {len(config.ema)} moving averages, optimiser)",
        "memory per device": "not reported by this backend"
        if memory is None
        else f"{_peak_bytes(memory) / 2**20:.1f} MiB (state, batch, and the arrays of a step)",
        "FLOPs per step": "not reported by this backend" if flops is None else f"{flops:.3e}",
        "shortest step": "unknown, because the FLOPs or the device's peak are"
        if flops is None or peak is None
        else f"{flops / (peak * mesh.size):.4f} s at the devices' peak",
        "sharding": f"images over all {mesh.size} devices; {len(sharded)} of {len(leaves)} arrays of parameters "
        f"({_share(sharded, leaves):.0%} of the numbers) over fsdp, the others on every device",
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items())


def _bytes_per_device(leaf: jax.ShapeDtypeStruct) -> int:
    assert leaf.sharding is not None
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


class _MemoryStats(Protocol):
    """The part of jax's `CompiledMemoryStats` that is used here."""

    argument_size_in_bytes: int
    output_size_in_bytes: int
    alias_size_in_bytes: int
    temp_size_in_bytes: int


def _peak_bytes(memory: _MemoryStats) -> int:
    inputs = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return inputs + memory.temp_size_in_bytes


def _share(some: Sequence[jax.ShapeDtypeStruct], every: Sequence[jax.ShapeDtypeStruct]) -> float:
    return sum(math.prod(leaf.shape) for leaf in some) / sum(math.prod(leaf.shape) for leaf in every)
