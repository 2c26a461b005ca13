"""What a program would take on machines that are not here: compiled for a TPU's topology, or counted for GPUs.

libtpu holds the TPU's whole compiler and needs no TPU, so the memory, the arithmetic, the traffic and the collectives
of a TPU program are read from the very program that would run. XLA's compiler for GPUs wants its GPU; for GPUs the
program is compiled for as many make-believe CPU devices, which says what hardly depends on the compiler: arithmetic,
the memory of the arguments, and what the partitioner makes devices tell each other.

The time is a roofline: the longer of arithmetic at the peak rate and traffic at the memory's bandwidth, without what
the links between chips take. The compiler's count of the traffic has what stays in a chip's fast memory in it, so
only the arithmetic's time is a bound that no program passes.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sdejax.model.conditioners import Unconditional
from sdejax.model.model import Model
from sdejax.model.networks import FlaxNetwork
from sdejax.pretrained.load import load
from sdejax.runtime.hardware import CHIPS, GIB, Chip
from sdejax.runtime.sharding import image_mesh, images_sharding, train_mesh
from sdejax.sampling.sample import _sample
from sdejax.solvers.sampler import Sampler, with_grid
from sdejax.text.vocabulary import Vocabulary
from sdejax.training.config import Config, load_config
from sdejax.training.step import abstract_state, make_train_step

_TPUS = ("v4", "v5e", "v5p", "v6e")
_GPUS = tuple(name for name, chip in CHIPS.items() if chip.kind.startswith("NVIDIA"))

# The words of a config's captions are known once its data is read. Until then: as many as this, and so many read of
# one caption; at emoji64's width of 192 the table of words is 3 MiB.
ASSUMED_WORDS, ASSUMED_LENGTH = 4096, 16


# Without these libtpu asks a metadata server that is not there, complains on stderr, writes logs to /tmp, and refuses
# to be loaded by two processes at once, or after one that was killed, as if both meant to take one TPU.
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
    """Chips to plan for: `devices` stand in for them, those of a TPU to compile for, or make-believe CPU devices."""

    name: str
    chip: Chip
    devices: tuple[Any, ...]
    tpu: bool


@dataclasses.dataclass(frozen=True)
class Program:
    """A lowered program. Nearly all of its work is in the body of a loop that is run `repeats` times."""

    kind: Literal["generation", "training"]
    batch: int
    repeats: int
    dtype: str
    lowered: Any


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one run of a program, a batch generated or one step trained, takes of each chip; None is not known.

    Sizes are in bytes. `memory` has "arguments", "outputs" (those that do not lie in an argument's place),
    "temporaries" and "code". `flops` and `accessed` are the compiler's counts for the program's text times `repeats`.
    `accessed` is the sum over all instructions of their operands and results, also of those that stay in fast memory.
    `collectives` are of the text: by kind how many, and the bytes of their results; in a loop's body they count once.
    """

    topology: Topology
    program: Program
    memory: dict[str, int | None]
    flops: float
    accessed: float | None
    collectives: dict[str, tuple[int, int]]

    @property
    def total_memory(self) -> int | None:
        """All of `memory`; None where a part is not known."""
        parts = [size for size in self.memory.values() if size is not None]
        return sum(parts) if len(parts) == len(self.memory) else None

    @property
    def compute_seconds(self) -> float:
        """Of the arithmetic, at the chip's bfloat16 peak."""
        return self.flops / self.topology.chip.flops

    @property
    def memory_seconds(self) -> float | None:
        """Of the traffic, at the bandwidth of the chip's memory, as if nothing stayed in faster memory."""
        return None if self.accessed is None else self.accessed / self.topology.chip.bandwidth

    @property
    def seconds(self) -> float:
        """The longer of the two, as far as they are known."""
        return max(self.compute_seconds, self.memory_seconds or 0.0)

    @property
    def bound(self) -> Literal["compute", "memory bandwidth"] | None:
        """Which of the two it is; "compute" is certain, as the traffic's time is counted high."""
        if self.memory_seconds is None:
            return None
        return "compute" if self.compute_seconds >= self.memory_seconds else "memory bandwidth"

    @property
    def most_images_per_second(self) -> float:
        """All chips' at the arithmetic's peak: a bound from above."""
        return self.program.batch / self.compute_seconds


def topology_of(name: str) -> Topology:
    """The chips of a name such as v5e:4x4, v5p:2x2x4 or h100:8.

    For a TPU it loads libtpu, told by environment variables not to look for a TPU; for GPUs it sets the number of CPU
    devices, which has to be done before jax's first computation.

    **Raises:** `ValueError` for another chip, a shape that this TPU is not built in, without libtpu, or where this
    process has begun with fewer CPU devices.
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


def _tpu_devices(name: str, chip: str, shape: list[int]) -> tuple[Any, ...]:
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(f"topology={name!r}: needs the TPU's compiler, libtpu; pip install 'sdejax[plan]'")
    for variable, value in _WITHOUT_A_TPU.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    how: dict[str, Any] = {}
    if chip == "v4":  # its two cores are one device, as jax has them on a real one
        how["chip_config_name"] = "megacore"
    if math.prod(shape) < 4:  # a part of a host; hosts have four chips by default
        how["chips_per_host_bounds"] = (*shape, 1, 1)[:3]
    try:
        return tuple(topologies.get_topology_desc(platform="tpu", topology_name=name, **how).devices)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"topology={name!r}: libtpu refuses it: {str(error).splitlines()[0]}") from None


def _cpu_devices(name: str, count: int) -> tuple[Any, ...]:
    with contextlib.suppress(RuntimeError):  # jax has begun; what it has may do
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ValueError(
            f"topology={name!r}: needs {count} CPU devices to count on, and jax has begun with {len(devices)}"
        )
    return tuple(devices[:count])


def model_of(path: str | Path) -> tuple[Model, Config | None]:
    """The model of a config file, which needs no data, and the config; or what `load` reads, and None.

    **Raises:** `ValueError` where the path is neither.
    """
    if Path(path).suffix not in (".py", ".json"):
        return load(path), None
    config = load_config(path)
    return load(config.start) if config.start else abstract_model(config), config


def abstract_model(config: Config) -> Model:
    """A config's model with shapes in place of parameters, which costs no memory.

    One with captions is given `ASSUMED_WORDS` words, of which it reads `ASSUMED_LENGTH` in a caption.
    """
    network, conditioner = config.network, Unconditional()
    if config.captions:
        conditioner = Vocabulary(tuple(f"word{i}" for i in range(ASSUMED_WORDS)), ASSUMED_LENGTH)
        network = dataclasses.replace(network, vocabulary=conditioner.size, words=conditioner.length)
    return Model(FlaxNetwork.abstract(network), config.sde, config.parametrisation, conditioner)


def generation(
    model: Model, topology: Topology, batch: int | None = None, sampler: Sampler | None = None, guidance: Any = None
) -> Program:
    """`sdejax.sampling.sample` of `batch` images (one for each chip) spread over all chips, with an exponential solver.

    **Raises:** `ValueError` where the batch is no multiple of the chips, or there is guidance for a model without text.
    """
    sampler = with_grid(sampler, "edm")
    mesh = image_mesh(topology.devices)
    batch = mesh.size if batch is None else batch
    _check_batch(batch, mesh.size, "the number of chips")
    denoiser = _shapes(model.denoiser(None, guidance), NamedSharding(mesh, P()))
    keys = _shapes(
        jax.eval_shape(jax.vmap(jax.random.key), np.zeros(batch, np.uint32)), NamedSharding(mesh, P("image"))
    )
    lowered = _lower(_sample)(denoiser, keys, model.sde, model.shape, sampler)
    return Program("generation", batch, sampler.steps, model.config.dtype, lowered)


def training(
    config: Config, model: Model, topology: Topology, batch: int | None = None, fsdp: int | None = None
) -> Program:
    """A training step on a batch (the config's) spread over all chips, the state over `fsdp` (the config's) of them.

    **Raises:** `ValueError` where the batch, the chips, `fsdp` and the config's accumulate do not fit together.
    """
    mesh = train_mesh(config.fsdp if fsdp is None else fsdp, topology.devices)
    batch, parts = config.batch if batch is None else batch, config.accumulate
    _check_batch(batch, parts * mesh.size, f"the number of chips ({mesh.size}) times accumulate ({parts})")
    optimiser = config.optimiser.make(config.steps)
    step = make_train_step(model, config.objective, optimiser, config.ema, config.seed, accumulate=parts, mesh=mesh)
    images = jax.ShapeDtypeStruct((batch, *model.shape), np.uint8, sharding=images_sharding(mesh))
    conditions = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype, sharding=images_sharding(mesh)),
        model.conditioner.encode([""]),
    )
    lowered = _lower(step)(abstract_state(model.params, optimiser, len(config.ema), mesh), images, conditions)
    return Program("training", batch, parts, model.config.dtype, lowered)


def _check_batch(batch: int, unit: int, meaning: str) -> None:
    if batch < 1 or batch % unit:
        raise ValueError(f"batch={batch}: must be a multiple of {unit}, {meaning}")


def _lower(function: Any) -> Callable[..., Any]:
    """Of a function made by `sdejax.runtime.jit.jit`: without the options that are this machine's."""
    return function.lower_plain


def _shapes(tree: Any, sharding: NamedSharding) -> Any:
    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(shape, tree)


def plan(program: Program, topology: Topology, quick: bool = False) -> Plan:
    """Compile the program and read what it takes: minutes for a large network.

    `quick` tells the TPU's compiler to try less hard: a quarter of the time, and temporaries up to half as large again.

    **Raises:** `ValueError` where a TPU program does not fit its chip's memory, which its compiler refuses.
    """
    effort = {"exec_time_optimization_effort": -1.0} if quick else {}
    options: dict[str, Any] = effort if topology.tpu else {"xla_backend_optimization_level": 0}
    try:
        with warnings.catch_warnings():  # jax's cache keeps such programs, cannot read them, says so and compiles
            warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")
            compiled = program.lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        code, _, said = str(error).splitlines()[0].partition(": ")
        if code != "RESOURCE_EXHAUSTED":
            raise
        raise ValueError(
            f"batch={program.batch}: must be smaller, or on more or larger chips than {topology.name}: {said}"
        ) from None
    costs, found = compiled.cost_analysis(), compiled.memory_analysis()
    memory: dict[str, int | None] = {
        "arguments": found.argument_size_in_bytes,
        "outputs": found.output_size_in_bytes - found.alias_size_in_bytes,
        # Those of the CPU's compiler, which lays out and fuses otherwise, say nothing of a GPU.
        "temporaries": found.temp_size_in_bytes if topology.tpu else None,
        "code": found.generated_code_size_in_bytes if topology.tpu else None,
    }
    accessed = program.repeats * costs["bytes accessed"] if topology.tpu else None
    return Plan(topology, program, memory, program.repeats * costs["flops"], accessed, collectives(compiled.as_text()))


_COLLECTIVE = re.compile(
    r" = (.*?) (all-gather|all-reduce|reduce-scatter|(?:ragged-)?all-to-all|collective-(?:permute|broadcast))(-done)?\("
)
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """By kind, how many collectives a compiled program's text has, and the bytes of all their results on one device.

    One that is split into a start and a done counts once, where it is done. One in a loop's body counts once.
    """
    found: dict[str, tuple[int, int]] = {}
    for line in text.splitlines():
        match = _COLLECTIVE.search(line.partition(", metadata=")[0])
        if match:
            count, size = found.get(match[2], (0, 0))
            found[match[2]] = count + 1, size + sum(_bytes(array) for array in _ARRAY.finditer(match[1]))
    return found


def _bytes(array: re.Match[str]) -> int:
    bits = 8 if array[1] == "pred" else int(array[2])
    return math.prod(int(size) for size in array[3].split(",") if size) * bits // 8


def as_record(plan: Plan) -> dict[str, Any]:
    """A plan as plain data, for JSON; sizes in bytes, times in seconds, per chip where nothing else is said."""
    chip, program = plan.topology.chip, plan.program
    known = plan.total_memory
    return {
        "program": program.kind,
        "topology": plan.topology.name,
        "chips": len(plan.topology.devices),
        "batch": program.batch,
        "compiled_for": plan.topology.chip.kind if plan.topology.tpu else "cpu",
        "memory": plan.memory,
        "memory_total": known,
        "memory_capacity": chip.memory,
        "fits": None if known is None else known <= chip.memory,
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


_BOUND = {
    None: "not known",
    "compute": "compute",
    "memory bandwidth": "memory bandwidth, as far as fast memory does not hold what is accessed",
}


def as_text(plan: Plan) -> str:
    """A plan as aligned lines for a person."""
    topology, program, chip = plan.topology, plan.program, plan.topology.chip
    loop = {"generation": f" in {program.repeats} steps", "training": f" in {program.repeats} part(s)"}[program.kind]
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in plan.memory.items())
    total = plan.total_memory
    kinds = "; ".join(f"{kind} {n} x, {_gib(size)}" for kind, (n, size) in sorted(plan.collectives.items()))
    compute, traffic = plan.compute_seconds, plan.memory_seconds
    by_cpu = f"for a CPU; what {chip.kind}'s own compiler makes of it is not known"
    lines = {
        "program": f"{program.kind}, {program.batch} images{loop}, {program.dtype}",
        "chips": f"{len(topology.devices)} x {chip.kind}, {program.batch // len(topology.devices)} images each",
        "compiled": f"for {topology.name}, which is not here" if topology.tpu else by_cpu,
        "memory per chip": f"{'not known' if total is None else _gib(total)} of {_gib(chip.memory)}"
        + ("" if total is None else f", {total / chip.memory:.0%}"),
        "  of which": parts,
        "FLOPs per chip": f"{plan.flops:.3e}",
        "bytes accessed": "not known" if traffic is None else f"{plan.accessed:.3e} per chip, fast memory's included",
        "collectives": f"{kinds} (in the program's text: a loop's body counts once)" if kinds else "none",
        "time at peak": f"arithmetic {compute:.3g} s at {chip.flops / 1e12:.0f} TFLOP/s (bfloat16); traffic "
        + ("not known" if traffic is None else f"{traffic:.3g} s")
        + f" at {chip.bandwidth / 1e9:.0f} GB/s; links between chips not counted",
        "bound": _BOUND[plan.bound],
        "at most": f"{plan.most_images_per_second:.4g} images/s on all chips, by the arithmetic",
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items())


def _gib(size: int | None) -> str:
    return "not known" if size is None else f"{size / GIB:.3f} GiB"
