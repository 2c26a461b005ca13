"""A whole SDEdit against diffusers' loop on torch: `python -m benchmarks.edit` (extra `bench`), float32 on the CPU.

The same network with the same random weights edits the same guide over 20 evaluations: ours by `sdejax.sdedit`, the
peer's by its scheduler's steps around its network, DDPM for the SDE and DDIM for the ODE, with noise of its own. Both
in one process, one after the other in every round; the figure of a run is the median of the rounds' ratios, and what is
printed last is the median over the runs. Bars: 0.75 and 1.03 for the small network at batch 1 and 8, 0.90 and 0.98 for
ddpm-cifar10-32.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel  # pyright: ignore[reportMissingImports]

import sdejax as sj
from benchmarks.network import CONFIGS, seconds, write
from benchmarks.network_theirs import THREADS
from tests.peers import image

EVALUATIONS = 20
_STRIDE = 25  # the peer's levels, from 480 down to 5
_FIRST = _STRIDE * (EVALUATIONS - 1) + 5


def ours(model: sj.Model, guide: np.ndarray, stochastic: bool) -> Callable[[], None]:
    """The edit by our solver, by default options."""
    sampler = sj.Sampler(EVALUATIONS, stochasticity=float(stochastic))
    denoiser, keys = model.denoiser(), sj.keys(range(len(guide)))

    def edit() -> None:
        jax.block_until_ready(sj.sdedit(denoiser, model.sde, guide, keys, strength=0.5, sampler=sampler))

    return edit


def theirs(network: UNet2DModel, guide: np.ndarray, stochastic: bool) -> Callable[[], None]:
    """The edit by diffusers' scheduler, step by step."""
    scheduler = DDPMScheduler(clip_sample=False) if stochastic else DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(1000 // _STRIDE)
    levels = [int(k) for k in scheduler.timesteps if k <= _FIRST][-EVALUATIONS:]
    assert len(levels) == EVALUATIONS
    clean = torch.from_numpy(guide).permute(0, 3, 1, 2).contiguous()

    def edit() -> None:
        x = scheduler.add_noise(clean, torch.randn_like(clean), torch.IntTensor([levels[0]]))
        with torch.no_grad():
            for k in levels:
                x = scheduler.step(network(x, k).sample, k, x, return_dict=False)[0]

    return edit


def ratios(folder: str, batch: int, stochastic: bool, rounds: int) -> tuple[float, float, float]:
    """Medians over the rounds: ours / theirs, our seconds, their seconds."""
    torch.set_num_threads(THREADS)
    network = UNet2DModel.from_pretrained(folder, subfolder="unet", low_cpu_mem_usage=False)
    model = sj.load(folder)
    guide = image(0, (batch, *model.shape))
    calls = ours(model, guide, stochastic), theirs(network, guide, stochastic)
    for call in calls:
        call()
    taken = [tuple(seconds(call) for call in calls) for _ in range(rounds)]
    mine, other = zip(*taken, strict=True)
    return statistics.median(a / b for a, b in taken), statistics.median(mine), statistics.median(other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=["small", "ddpm-cifar10-32"], choices=list(CONFIGS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"jax {jax.__version__}, torch {torch.__version__}, {THREADS} threads, float32, {time.strftime('%Y-%m-%d')}")
    print("network           batch   kind   ours / theirs (each run; median)   ours (s)   theirs (s)")
    for name in arguments.configs:
        with tempfile.TemporaryDirectory() as folder:
            write(name, folder)
            assert (Path(folder) / "unet").is_dir()
            for batch in arguments.batches:
                for kind in ("SDE", "ODE"):
                    runs = [ratios(folder, batch, kind == "SDE", arguments.rounds) for _ in range(arguments.runs)]
                    each = " ".join(f"{ratio:.2f}" for ratio, _, _ in runs)
                    middle, mine, other = (statistics.median(column) for column in zip(*runs, strict=True))
                    print(
                        f"{name:16} {batch:6}   {kind:4}   {each}; {middle:.2f}   {mine:8.2f}   {other:8.2f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
