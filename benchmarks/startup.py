"""Seconds from the start of a command to its first image, with empty caches, with ours, and with jax's.

    python -m benchmarks.startup [REPEATS]
    python -m benchmarks.startup caches [REPEATS]

Each start is a process of its own. "jax's cache" is jax's persistent cache alone, which saves the compiler's time but
not the tracing. "ours" is the folder of `--cache`, which saves both. No cache saves what the devices compute.

The first form measures four jobs; its last column is the ratio without what the devices compute. The larger networks
have fresh weights, which are drawn into a temporary folder. The second form answers whether our cache is worth its
code: it alternates first starts, second starts with ours and second starts with jax's, for two jobs of eight images,
and prints medians and the range of all starts.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sdejax.model.model import Model
from sdejax.model.snapshot import save
from sdejax.training.config import load_config

HEART = ["--source", "red heart", "--target", "blue heart", "--source-guidance", "1", "--target-guidance", "3"]
SYNC = ["examples/images/red-heart.png", *HEART]
# (name, a snapshot or a config, the verb, its options)
JOBS = [
    ("sample, emoji32, guidance", "checkpoints/emoji32", "sample", ["--prompt", "red heart", "--guidance", "2"]),
    ("sync, emoji32, guidance", "checkpoints/emoji32", "sync", SYNC),
    ("sample, emoji64", "configs/emoji64.py", "sample", []),
    ("sample, celebahq256_ve, 1 step", "configs/celebahq256_ve.py", "sample", ["--steps", "1"]),
]
EIGHT = ["--seeds", "0-7"]
EIGHT_IMAGES = [
    ("sample, 8 images", ["sample", "checkpoints/emoji32", "--prompt", "red apple", "--guidance", "2", *EIGHT]),
    ("sync, 8 images", ["sync", "checkpoints/emoji32", *SYNC, *EIGHT]),
]


class Start(NamedTuple):
    """Seconds until the first image was written, until the command ended, of CPU time, and of work for one image."""

    first_image: float
    whole: float
    cpu: float
    computing: float


def start(words: list[str], jax_cache: Path | None = None) -> Start:
    """Run a command to its end, with jax's persistent cache in a folder, or without."""
    own = {}
    if jax_cache is not None:
        own = {
            "JAX_COMPILATION_CACHE_DIR": str(jax_cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    command = [sys.executable, "-m", "sdejax", *words, "--json"]
    began, seconds, summary, before = time.perf_counter(), None, {}, _cpu_seconds()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **own}
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            summary = json.loads(line)
            if "seed" in summary and seconds is None:
                seconds = time.perf_counter() - began
    whole = time.perf_counter() - began
    if process.returncode or seconds is None:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    rate, outside = summary["images_per_second_per_device"], summary["share_outside_devices"]
    return Start(seconds, whole, _cpu_seconds() - before, (1.0 - outside) / rate)


def _cpu_seconds() -> float:
    """The CPU time of all commands that have ended, which depends less on what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _snapshot(model: str, folder: Path) -> Path:
    if not model.endswith(".py"):
        return Path(model)
    config = load_config(model)
    save(folder, Model.create(config.network, config.sde, config.parametrisation))
    return folder


def jobs(repeats: int) -> None:
    """The table of docs/benchmarks.md."""
    columns = ["job", "first start, s", "jax's cache, s", "second start, s", "of which the device computes"]
    print(f"| {' | '.join([*columns, 'second / first', 'without what is computed'])} |\n{'|---' * 7}|", flush=True)
    for name, model, verb, options in JOBS:
        with tempfile.TemporaryDirectory() as weights:
            words = [verb, str(_snapshot(model, Path(weights))), *options]
            rows = _alternating(words, repeats)
        first, ours, theirs = (statistics.median(row.first_image for row in rows[kind]) for kind in rows)
        computing = statistics.median(row.computing for row in rows["ours"])
        pairs = list(zip(rows["first"], rows["ours"], strict=True))
        whole = statistics.median(b.first_image / a.first_image for a, b in pairs)
        rest = statistics.median((b.first_image - b.computing) / (a.first_image - a.computing) for a, b in pairs)
        print(
            f"| {name} | {first:.1f} | {theirs:.1f} | {ours:.1f} | {computing:.1f} | {whole:.2f} | {rest:.2f} |",
            flush=True,
        )


def caches(repeats: int) -> None:
    """Is our cache worth its code? Medians, and in brackets the least and the most."""
    columns = ["job", "start", "to the first image, s", "to the end, s", "CPU time, s"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    for name, words in EIGHT_IMAGES:
        for kind, rows in _alternating(words, repeats).items():
            cells = (_spread([getattr(row, field) for row in rows]) for field in ("first_image", "whole", "cpu"))
            print(f"| {name} | {kind} | {' | '.join(cells)} |", flush=True)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _alternating(words: list[str], repeats: int) -> dict[str, list[Start]]:
    """First starts with empty caches, and second starts with ours and with jax's, one after the other in each round.

    The order of the second starts changes from round to round.
    """
    found: dict[str, list[Start]] = {"first": [], "ours": [], "jax's": []}
    for number in range(repeats):
        with tempfile.TemporaryDirectory() as scratch:
            ours, theirs = Path(scratch) / "ours", Path(scratch) / "jax"

            def run(cache: str, jax_cache: Path | None = None, scratch: str = scratch) -> Start:
                out = Path(scratch) / "out"
                shutil.rmtree(out, ignore_errors=True)
                return start([*words, "--cache", cache, "--out", str(out)], jax_cache)

            found["first"].append(run(str(ours)))
            run("none", theirs)
            seconds: dict[str, Callable[[], Start]] = {
                "ours": lambda run=run, ours=ours: run(str(ours)),
                "jax's": lambda run=run, theirs=theirs: run("none", theirs),
            }
            for kind in list(seconds)[:: -1 if number % 2 else 1]:
                found[kind].append(seconds[kind]())
    return found


if __name__ == "__main__":
    arguments = sys.argv[1:]
    measure = caches if arguments[:1] == ["caches"] else jobs
    counts = arguments[1:] if measure is caches else arguments
    measure(int(counts[0]) if counts else 3)
