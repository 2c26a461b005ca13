"""Seconds from the start of a command to its first image, with no programs in the cache and with the job's.

    python -m benchmarks.startup [REPEATS]

Each start is a process of its own. "jax's cache" is jax's own persistent cache alone, which spares the compiler but not
the tracing. What the devices compute no cache spares: the last column is the ratio without it. The larger networks
have fresh weights, drawn here into a temporary folder.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sdejax.model.model import Model
from sdejax.model.snapshot import save
from sdejax.training.config import load_config

# (name, a snapshot or a config, the verb, its options)
HEART = ["--source", "red heart", "--target", "blue heart", "--source-guidance", "1", "--target-guidance", "3"]
JOBS = [
    ("sample, emoji32, guidance", "checkpoints/emoji32", "sample", ["--prompt", "red heart", "--guidance", "2"]),
    ("sync, emoji32, guidance", "checkpoints/emoji32", "sync", ["examples/images/red-heart.png", *HEART]),
    ("sample, emoji64", "configs/emoji64.py", "sample", []),
    ("sample, celebahq256_ve, 1 step", "configs/celebahq256_ve.py", "sample", ["--steps", "1"]),
]


def first_image(words: list[str], jax_cache: Path | None = None) -> tuple[float, float]:
    """Seconds until the command has written an image and said so, and those for which the device computed it."""
    own = (
        {}
        if jax_cache is None
        else {
            "JAX_COMPILATION_CACHE_DIR": str(jax_cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    )
    command = [sys.executable, "-m", "sdejax.commands.main", *words, "--json"]
    began, seconds, summary = time.perf_counter(), None, {}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **own}
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            summary = json.loads(line)
            if "seed" in summary and seconds is None:
                seconds = time.perf_counter() - began
    if process.returncode or seconds is None:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    rate, outside = summary["images_per_second_per_device"], summary["share_outside_devices"]
    return seconds, (1.0 - outside) / rate


def starts(verb: str, snapshot: Path, options: list[str], scratch: Path) -> tuple[float, ...]:
    """Seconds of a first start, of a second one with jax's cache and with ours, and of the device's work in each."""
    found = []
    for name, cache, jax_cache in [
        ("first", "programs", None),
        ("second", "programs", None),
        ("fill", "none", scratch / "jax"),
        ("jax", "none", scratch / "jax"),
    ]:
        address = cache if cache == "none" else str(scratch / cache)
        words = [verb, str(snapshot), *options, "--cache", address, "--out", str(scratch / name)]
        found.append(first_image(words, jax_cache))
    for path in scratch.iterdir():
        shutil.rmtree(path)
    first, second, _, with_jax = found
    return (*first, *second, *with_jax)


def _snapshot(model: str, folder: Path) -> Path:
    if not model.endswith(".py"):
        return Path(model)
    config = load_config(model)
    save(folder, Model.create(config.network, config.sde, config.parametrisation))
    return folder


def main(repeats: int) -> None:
    print(
        "| job | first start, s | jax's cache, s | second start, s | of which the device computes | second / first | ",
        end="",
    )
    print("without what is computed |\n" + "|---" * 7 + "|", flush=True)
    for name, model, verb, options in JOBS:
        with tempfile.TemporaryDirectory() as weights, tempfile.TemporaryDirectory() as scratch:
            snapshot = _snapshot(model, Path(weights))
            rows = [starts(verb, snapshot, options, Path(scratch)) for _ in range(repeats)]
        first, _, second, computed, with_jax, _ = (statistics.median(column) for column in zip(*rows, strict=True))
        whole = statistics.median(row[2] / row[0] for row in rows)
        rest = statistics.median((row[2] - row[3]) / (row[0] - row[1]) for row in rows)
        told = f"{first:.1f} | {with_jax:.1f} | {second:.1f} | {computed:.1f} | {whole:.2f} | {rest:.2f}"
        print(f"| {name} | {told} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
