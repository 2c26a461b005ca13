"""What a program takes of each chip, read from its compiled form.

The time is a roofline: the arithmetic at the peak rate, or the traffic at the bandwidth of the memory, whichever takes
longer. It leaves out the links between chips. The compiler's count of the traffic includes what stays in a chip's fast
memory. So only the time of the arithmetic is a limit that no program can beat.
"""

import dataclasses
import warnings
from typing import Any, Literal

import jax

from sdejax.jobs.plan.collectives import collectives
from sdejax.jobs.plan.programs import Program
from sdejax.jobs.plan.topology import Topology


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one run of a program takes of each chip: to generate a batch, or to train one step. None is unknown.

    - `memory`: bytes of "arguments", "outputs" (except those in the place of an argument), "temporaries" and "code".
    - `flops`, `accessed`: the compiler's counts for the program's text, times `repeats`. `accessed` is the sum over all
      instructions of the bytes that they read and write, including those in fast memory.
    - `collectives`: for each kind in the program's text, how many and the bytes of their results. Those in the body of
      a loop count once.
    """

    topology: Topology
    program: Program
    memory: dict[str, int | None]
    flops: float
    accessed: float | None
    collectives: dict[str, tuple[int, int]]

    @property
    def total_memory(self) -> int | None:
        """The sum of `memory`; None if a part is unknown."""
        parts = [size for size in self.memory.values() if size is not None]
        return sum(parts) if len(parts) == len(self.memory) else None

    @property
    def compute_seconds(self) -> float:
        """The time of the arithmetic at the chip's bfloat16 peak."""
        return self.flops / self.topology.chip.flops

    @property
    def memory_seconds(self) -> float | None:
        """The time of the traffic at the bandwidth of the chip's memory, as if nothing stayed in fast memory."""
        return None if self.accessed is None else self.accessed / self.topology.chip.bandwidth

    @property
    def seconds(self) -> float:
        """The longer of the two times, or the one that is known."""
        return max(self.compute_seconds, self.memory_seconds or 0.0)

    @property
    def bound(self) -> Literal["compute", "memory bandwidth"] | None:
        """What takes longer. "compute" is certain, because the time of the traffic is an upper estimate."""
        if self.memory_seconds is None:
            return None
        return "compute" if self.compute_seconds >= self.memory_seconds else "memory bandwidth"

    @property
    def most_images_per_second(self) -> float:
        """An upper limit for all chips together: the arithmetic at the peak rate."""
        return self.program.batch / self.compute_seconds


def plan(program: Program, topology: Topology, quick: bool = False) -> Plan:
    """Compile the program, which takes minutes for a large network, and read what it takes.

    `quick` tells the TPU's compiler to try less hard. It then takes a quarter of the time, and plans up to half as much
    memory again for temporaries.

    **Raises:** `ValueError` if a TPU program does not fit in the memory of its chip.
    """
    effort: dict[str, Any] = {"exec_time_optimization_effort": -1.0} if quick else {}
    options: dict[str, Any] = effort if topology.tpu else {"xla_backend_optimization_level": 0}
    try:
        with warnings.catch_warnings():  # jax's cache keeps such programs but cannot read them, and then compiles again
            warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")
            compiled = program.lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        code, _, reason = str(error).splitlines()[0].partition(": ")
        if code != "RESOURCE_EXHAUSTED":
            raise
        raise ValueError(
            f"batch={program.batch}: must be smaller, or on more or larger chips than {topology.name}: {reason}"
        ) from None
    costs: Any = compiled.cost_analysis()
    sizes: Any = compiled.memory_analysis()
    memory: dict[str, int | None] = {
        "arguments": sizes.argument_size_in_bytes,
        "outputs": sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        # The CPU's compiler fuses and lays out differently, so these tell nothing about a GPU.
        "temporaries": sizes.temp_size_in_bytes if topology.tpu else None,
        "code": sizes.generated_code_size_in_bytes if topology.tpu else None,
    }
    accessed = program.repeats * costs["bytes accessed"] if topology.tpu else None
    flops, moved = program.repeats * costs["flops"], collectives(compiled.as_text() or "")
    return Plan(topology, program, memory, flops, accessed, moved)
