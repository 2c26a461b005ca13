"""A plan as JSON, and as text for a person."""

from typing import Any

from sdejax.jobs.plan.plan import Plan
from sdejax.runtime.hardware import GIB

_BOUND = {
    None: "not known",
    "compute": "compute",
    "memory bandwidth": "memory bandwidth, unless fast memory holds most of what is accessed",
}


def as_record(plan: Plan) -> dict[str, Any]:
    """A plan as plain data. Sizes are in bytes, times in seconds. Counts are per chip, except `batch` and images."""
    chip, program, total = plan.topology.chip, plan.program, plan.total_memory
    return {
        "program": program.kind,
        "topology": plan.topology.name,
        "chips": len(plan.topology.devices),
        "batch": program.batch,
        "compiled_for": chip.kind if plan.topology.tpu else "cpu",
        "memory": plan.memory,
        "memory_total": total,
        "memory_capacity": chip.memory,
        "fits": None if total is None else total <= chip.memory,
        "loop_repeats": program.repeats,
        "flops": plan.flops,
        "bytes_accessed": plan.accessed,
        "collectives": {kind: {"count": n, "bytes": size} for kind, (n, size) in plan.collectives.items()},
        "compute_seconds": plan.compute_seconds,
        "memory_seconds": plan.memory_seconds,
        "seconds": plan.seconds,
        "bound": plan.bound,
        "most_images_per_second": plan.most_images_per_second,
    }


def as_text(plan: Plan) -> str:
    """A plan as aligned lines for a person."""
    topology, program, chip = plan.topology, plan.program, plan.topology.chip
    loop = {"generation": f" in {program.repeats} steps", "training": f" in {program.repeats} part(s)"}[program.kind]
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in plan.memory.items())
    total = plan.total_memory
    kinds = "; ".join(f"{kind} {n} x, {_gib(size)}" for kind, (n, size) in sorted(plan.collectives.items()))
    compute, traffic = plan.compute_seconds, plan.memory_seconds
    for_cpu = f"for a CPU; what the compiler of {chip.kind} makes of it is not known"
    lines = {
        "program": f"{program.kind}, {program.batch} images{loop}, {program.dtype}",
        "chips": f"{len(topology.devices)} x {chip.kind}, {program.batch // len(topology.devices)} images each",
        "compiled": f"for {topology.name}, which is not here" if topology.tpu else for_cpu,
        "memory per chip": f"{_gib(total)} of {_gib(chip.memory)}"
        + ("" if total is None else f", {total / chip.memory:.0%}"),
        "  parts": parts,
        "FLOPs per chip": f"{plan.flops:.3e}",
        "bytes accessed": "not known" if traffic is None else f"{plan.accessed:.3e} per chip, including fast memory",
        "collectives": f"{kinds} (in the program's text: the body of a loop counts once)" if kinds else "none",
        "time at peak": f"arithmetic {compute:.3g} s at {chip.flops / 1e12:.0f} TFLOP/s (bfloat16); traffic "
        + ("not known" if traffic is None else f"{traffic:.3g} s")
        + f" at {chip.bandwidth / 1e9:.0f} GB/s; without the links between chips",
        "bound": _BOUND[plan.bound],
        "at most": f"{plan.most_images_per_second:.4g} images/s on all chips, by the arithmetic",
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items())


def _gib(size: int | None) -> str:
    return "not known" if size is None else f"{size / GIB:.3f} GiB"
