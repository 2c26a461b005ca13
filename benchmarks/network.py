"""Our network against diffusers' on torch: `python -m benchmarks.network` (extra `bench`), float32 on the CPU.

The same weights and the same input, in one process, one after the other in every round, each warmed by a call of its
own just before the one that is timed; medians, and medians of the ratios. `forward` is one evaluation; `step` is the
loss |output - noise|^2, its gradient, and Adam. Peak memory is of a process that does nothing else.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import torch  # pyright: ignore[reportMissingImports]

from benchmarks import network_ours, network_theirs
from benchmarks.parity import DDPM, FULL, blocks, peer

CONFIGS = {
    "small": {
        **DDPM,
        **blocks("", [False, True, False, False]),
        "sample_size": 32,
        "block_out_channels": (64, 128, 128, 128),
        "attention_head_dim": None,
    },
    "ddpm-cifar10-32": FULL["ddpm-cifar10-32"],
    "ddpm-celebahq-256": FULL["ddpm-celebahq-256"],
}


def seconds(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def write(name: str, folder: str) -> None:
    """The peer's network of that name, with random weights, as a diffusers folder."""
    network, scheduler = peer(CONFIGS[name])
    network.save_pretrained(Path(folder) / "unet")
    scheduler.save_pretrained(Path(folder) / "scheduler")


def compare(folder: str, batch: int, task: str, contenders: list[str], budget: float) -> dict[str, Any]:
    """Medians of alternating calls, as many rounds as fit into `budget` seconds, at least 3 and at most 25."""
    calls, first = {}, {}
    for how in contenders:
        ours = how == "ours"
        calls[how] = network_ours.call(folder, batch, task) if ours else network_theirs.call(folder, batch, task, how)
        first[how] = seconds(calls[how])
    per_round = 2 * sum(seconds(call) for call in calls.values())
    rounds = max(3, min(25, int(budget / per_round)))
    times: dict[str, list[float]] = {how: [] for how in contenders}
    for _ in range(rounds):
        for how, call in calls.items():
            call()
            times[how].append(seconds(call))
    median = {how: statistics.median(v) for how, v in times.items()}
    ratios = {
        how: statistics.median(a / b for a, b in zip(times["ours"], v, strict=True))
        for how, v in times.items()
        if how != "ours"
    }
    return {"rounds": rounds, "median": median, "ratio": ratios, "first_call": first}


def memory(folder: str, batch: int, task: str, how: str) -> float:
    """Peak MiB of a process that makes two such calls; NaN where it did not end well."""
    program = ["benchmarks.network_ours"] if how == "ours" else ["benchmarks.network_theirs"]
    rest = [folder, str(batch), task] + ([] if how == "ours" else [how])
    done = subprocess.run([sys.executable, "-m", *program, *rest], capture_output=True, text=True, check=False)
    return float(done.stdout.splitlines()[-1]) if done.returncode == 0 else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS), choices=list(CONFIGS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--tasks", nargs="+", default=["forward", "step"], choices=["forward", "step"])
    parser.add_argument("--peers", nargs="*", default=["default", "channels_last", "compile"])
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of timed rounds per row, 0 for memory only")
    parser.add_argument("--no-memory", action="store_true")
    arguments = parser.parse_args()
    print(f"jax {jax.__version__}, torch {torch.__version__}, {network_theirs.THREADS} threads, float32")
    contenders = ["ours", *arguments.peers]
    for name in arguments.configs:
        with tempfile.TemporaryDirectory() as folder:
            write(name, folder)
            for task in arguments.tasks:
                for batch in arguments.batches:
                    report(name, folder, batch, task, contenders, arguments.budget, not arguments.no_memory)


def report(
    name: str, folder: str, batch: int, task: str, contenders: list[str], budget: float, with_memory: bool
) -> None:
    found = compare(folder, batch, task, contenders, budget) if budget else None
    print(f"{name}, batch {batch}, {task}" + (f": medians of {found['rounds']} rounds" if found else ""))
    for how in contenders:
        line = f"    {how:14}"
        if found:
            median, first = 1e3 * found["median"][how], found["first_call"][how]
            line += f" {median:9.1f} ms   first call {first:6.1f} s"
        if with_memory:
            line += f"   {memory(folder, batch, task, how):7.0f} MiB"
        if found and how in found["ratio"]:
            line += f"   ours / it {found['ratio'][how]:.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
