"""Generation over devices and processes, what writing costs, and whether memory stays flat.

    python -m benchmarks.scaling [devices] [writing] [memory] [precision]

`devices`: images/s and the share of time outside the devices for 1, 2 and 4 fake devices and 1 and 2 processes. The
cores of one machine are all there is: more devices share them, and a gain is that of the cores that one device leaves
idle. None of the rows shows a network or a second machine.
`writing`: `sdejax sample` against `sj.generate`, which makes the same images and writes none; both in this process.
`memory`: of a process that makes 10,000 images of 8 x 8 pixels, as the shards come.
`precision`: the bundled models in float32 and bfloat16, with the share of the device's peak where that is known.
"""

import collections
import contextlib
import dataclasses
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest import mock

import jax
import numpy as np

import sdejax as sj
from sdejax.commands.main import main as sdejax
from sdejax.jobs import maker
from sdejax.jobs.writer import Writer
from sdejax.media.images import png_bytes, to_image
from sdejax.model.snapshot import save
from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.runtime.hardware import chip_of
from sdejax.sampling.sample import _sample

EMOJI = ["sample", "checkpoints/emoji32", "--prompt", "red heart", "--json"]
CORES = sorted(os.sched_getaffinity(0))
# (processes, devices in each, whether each process has one core to itself)
LAYOUTS = [(1, 1, False), (1, 2, False), (1, 4, False), (2, 1, False), (1, 1, True), (2, 1, True)]


def started(words: Sequence[str], devices: int, cores: Sequence[int]) -> subprocess.Popen:
    """A command in a process of its own, with so many fake devices on these cores."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(
        ["taskset", "-c", ",".join(map(str, cores)), sys.executable, "-m", "sdejax", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def generated(layout: tuple[int, int, bool], scratch: Path, images: int) -> tuple[float, float]:
    """(images/s of all devices together, the share of time outside them) of one run."""
    processes, devices, alone = layout
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = [*EMOJI, "--seeds", f"0-{images - 1}", "--batch", "8", "--format", "tar", "--shard-size", "64"]
    words += ["--cache", str(scratch / "cache"), "--out", tempfile.mkdtemp(dir=scratch)]
    running = []
    for index in range(processes):
        shared = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(processes), "--process-id", str(index)]
        cores = [CORES[index % len(CORES)]] if alone else CORES
        running.append(started([*words, *(shared if processes > 1 else [])], devices, cores))
    said = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"{layout}: exit codes {[process.returncode for process in running]}")
    summary = json.loads(said[0].splitlines()[-1])
    assert summary["images"] == images
    return summary["images_per_second_per_device"] * summary["devices"], summary["share_outside_devices"]


def devices(images: int = 256, rounds: int = 3) -> None:
    """Alternating runs of all layouts; the ratios are to the first, or to the first with a core to itself."""
    found: dict[Any, list[tuple[float, float]]] = {layout: [] for layout in LAYOUTS}
    with tempfile.TemporaryDirectory() as folder:
        for layout in LAYOUTS:  # the programs
            generated(layout, Path(folder), 64)
        for _ in range(rounds):
            for layout in LAYOUTS:
                found[layout].append(generated(layout, Path(folder), images))
    print("| processes | devices in each | cores | images/s | against one device | outside the devices |")
    print("|---|---|---|---|---|---|")
    for (count, each, alone), rows in found.items():
        base = found[1, 1, alone]
        ratio = statistics.median(row[0] / one[0] for row, one in zip(rows, base, strict=True))
        rate, outside = (statistics.median(column) for column in zip(*rows, strict=True))
        cores = "one for each process" if alone else f"{len(CORES)}, shared"
        print(f"| {count} | {each} | {cores} | {rate:.1f} | {ratio:.2f} | {outside:.1%} |", flush=True)


def writing(images: int = 256, rounds: int = 10) -> None:
    """Seconds for the same images with and without files, forth and back again, once both are compiled.

    Also the share of a command's CPU time that encoding and writing take, which other programs do not disturb: the most
    that it can cost where no core is idle.
    """
    model = sj.load("checkpoints/emoji32")

    def unwritten() -> float:
        began = time.perf_counter()
        sampler = sj.Sampler(steps=20, grid="edm")
        for _ in sj.generate(model, range(images), prompt="red heart", sampler=sampler, batch=32):
            pass
        return time.perf_counter() - began

    def written(form: str) -> float:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as said:
            words = [*EMOJI, "--seeds", f"0-{images - 1}", "--format", form, "--out", folder, "--cache", "none"]
            began, spent = time.process_time(), []
            with mock.patch.object(maker, "Writer", lambda *steps: Writer(*(_counted(step, spent) for step in steps))):
                assert sdejax(words) == 0
            shares[form].append(sum(spent) / (time.process_time() - began))
        found = json.loads(said.getvalue().splitlines()[-1])
        return images / (found["images_per_second_per_device"] * found["devices"])

    shares: dict[str, list[float]] = collections.defaultdict(list)
    runs = {"none": unwritten, "none again": unwritten}
    runs |= {form: partial(written, form) for form in ("png", "tar", "parquet")}
    written("png")
    unwritten()
    shares.clear()
    rows = []
    for number in range(rounds):
        order = list(runs)[:: 1 if number % 2 else -1]
        row = {name: runs[name]() for name in order}
        rows.append({name: row[name] / row["none"] - 1.0 for name in runs})
    for name in list(runs)[1:]:
        low, middle, high = statistics.quantiles([row[name] for row in rows], n=4)
        print(f"files: {name}: {middle:+.1%} of the time without, quartiles {low:+.1%} and {high:+.1%}", flush=True)
        if name in shares:
            low, middle, high = statistics.quantiles(shares[name], n=4)
            print(f"    {middle:.2%} of all CPU time, quartiles {low:.2%} and {high:.2%}", flush=True)
    for size in (32, 256):
        image = np.cumsum(np.random.default_rng(0).standard_normal((size, size, 3)) / size, axis=0)
        image = np.clip(image, -1.0, 1.0).astype(np.float32)
        seconds = statistics.median(_seconds(lambda image=image: png_bytes(to_image(image))) for _ in range(30))
        print(f"one core encodes {1.0 / seconds:.0f} images/s of {size} x {size}")


def _counted(step: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """The step, whose seconds of a core are noted."""

    def call(*args: Any) -> Any:
        began = time.thread_time()
        result = step(*args)
        spent.append(time.thread_time() - began)
        return result

    return call


def _seconds(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - began


def memory(images: int = 10_000) -> None:
    """The resident memory of a process after each shard of 1,000 images."""
    network = NCSNppConfig(shape=(8, 8, 3), channels=8, multipliers=(1, 2), blocks=1, attention=())
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "tiny", sj.Model.create(network, sj.VPSDE(), sj.Parametrisation()))
        words = ["sample", f"{folder}/tiny", "--seeds", f"0-{images - 1}", "--format", "tar", "--json"]
        process = started([*words, "--steps", "5", "--cache", "none", "--out", f"{folder}/out"], 1, CORES)
        assert process.stdout is not None
        held = []
        for line in process.stdout:
            if "shard" in json.loads(line):
                status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                held.append(int(next(row for row in status if row.startswith("VmRSS")).split()[1]) / 1024)
        process.wait()
    told = ", ".join(f"{size:.1f}" for size in held)
    print(f"MiB after each 1,000 of {images} images: {told}; growth from the first: {held[-1] - held[0]:+.1f}")


def precision(images: int = 64, rounds: int = 5) -> None:
    """Images/s of one device in each precision, alternating, and the share of its peak by the compiler's FLOPs."""
    device, keys = jax.devices()[0], sj.keys(range(images))
    chip, sampler, program = chip_of(device), sj.Sampler(steps=20, grid="edm"), cast(Any, _sample)
    for path in sorted(Path("checkpoints").iterdir()):
        calls, flops = {}, {}
        for dtype in ("float32", "bfloat16"):
            model = sj.load(path)
            config = dataclasses.replace(model.config, dtype=dtype)
            model = dataclasses.replace(model, network=sj.FlaxNetwork(config, model.params))
            calls[dtype] = partial(sj.sample, model.denoiser(), model.sde, keys, model.shape, sampler=sampler)
            lowered = program.lower(model.denoiser(), keys, model.sde, model.shape, sampler)
            # The compiler counts a loop's body once.
            flops[dtype] = sampler.steps * lowered.compile().cost_analysis()["flops"]
            _seconds(calls[dtype])
        rows = [{dtype: _seconds(call) for dtype, call in calls.items()} for _ in range(rounds)]
        for dtype in calls:
            seconds = statistics.median(row[dtype] for row in rows)
            share = f"{flops[dtype] / seconds / chip.flops:.1%} of bfloat16's peak" if chip else "peak unknown"
            print(
                f"{path.name}, {dtype}, batch {images}, {device.device_kind}: {images / seconds:.1f} images/s, ", end=""
            )
            print(f"{flops[dtype] / seconds / 1e12:.3g} TFLOP/s, {share}", flush=True)


if __name__ == "__main__":
    measures = {"devices": devices, "writing": writing, "memory": memory, "precision": precision}
    for name in sys.argv[1:] or measures:
        measures[name]()
