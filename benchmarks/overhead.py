"""What an edit costs beyond its network calls: `python -m benchmarks.overhead [SNAPSHOT]`.

Wall time of a whole edit over (network evaluations x one bare jitted network call), in alternating runs, medians of the
ratios, at batch 1 and 8; then time and peak memory at 20, 100 and 500 steps, each in a process of its own.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import sdejax as sj
from benchmarks.peak_memory import mebibytes


def seconds(function: Callable[[], jax.Array]) -> float:
    """Wall time of one call, its result ready."""
    started = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - started


def overhead(model: sj.Model, batch: int, editor: str, steps: int = 50, rounds: int = 9) -> tuple[float, float, float]:
    """(median ratio, milliseconds of one network call, seconds of one edit)."""
    source, target = model.denoiser("red heart"), model.denoiser("blue heart")
    image = jnp.zeros((batch, *model.shape))
    keys, sampler = sj.keys(range(batch)), sj.Sampler(steps=steps)
    if editor == "sdedit":
        evaluations = steps

        def edit() -> jax.Array:
            return sj.sdedit(source, model.sde, image, keys, strength=0.5, sampler=sampler)
    else:
        evaluations = 2 * steps

        def edit() -> jax.Array:
            return sj.sync_sde(source, target, model.sde, image, keys, strength=0.8, sampler=sampler)

    call, t = jax.jit(lambda denoiser, t, x: denoiser(t, x)), jnp.float32(0.5)

    def calls() -> jax.Array:
        x = image
        for _ in range(20):
            x = call(source, t, image)
        return x

    seconds(edit)
    seconds(calls)
    pairs = [(seconds(edit), seconds(calls) / 20) for _ in range(rounds)]
    ratio = statistics.median(whole / (evaluations * one) for whole, one in pairs)
    return ratio, 1e3 * statistics.median(one for _, one in pairs), statistics.median(whole for whole, _ in pairs)


def growth(snapshot: str, steps: int) -> None:
    """Print the seconds and the peak memory of one process that edits with `steps` steps."""
    model = sj.load(snapshot)
    image, keys, sampler = np.zeros((8, *model.shape), np.float32), sj.keys(range(8)), sj.Sampler(steps=steps)

    def edit() -> jax.Array:
        return sj.sdedit(model.denoiser(), model.sde, image, keys, strength=0.5, sampler=sampler)

    seconds(edit)
    took = statistics.median(seconds(edit) for _ in range(3))
    print(json.dumps({"seconds": took, "mebibytes": mebibytes()}))


def main() -> None:
    snapshot = sys.argv[1] if len(sys.argv) > 1 else "checkpoints/emoji32"
    if len(sys.argv) > 2:
        growth(snapshot, int(sys.argv[2]))
        return
    model = sj.load(snapshot)
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {model.parameter_count / 1e6:.2f} M parameters")
    print("editor     batch   edit / (evaluations x call)   one call (ms)   one edit of 50 steps (s)")
    for editor in ("sdedit", "sync_sde"):
        for batch in (1, 8):
            ratio, call, whole = overhead(model, batch, editor)
            print(f"{editor:10} {batch:5}   {ratio:27.3f}   {call:13.2f}   {whole:24.2f}", flush=True)
    print("steps   seconds   seconds/step   peak memory (MiB)   (sdedit, batch 8, one process each)")
    for steps in (20, 100, 500):
        command = [sys.executable, "-m", "benchmarks.overhead", snapshot, str(steps)]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(
            f"{steps:5}   {row['seconds']:7.2f}   {row['seconds'] / steps:12.4f}   {row['mebibytes']:17.0f}", flush=True
        )


if __name__ == "__main__":
    main()
