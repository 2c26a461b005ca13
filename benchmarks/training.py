"""What a training step costs, and what the loop adds to it: `python -m benchmarks.training` (extra `bench`).

First, a whole step (noise levels, noise, loss, gradient, clipping, Adam, moving average) against the same network and
the same work in torch, float32, alternating in one process. Then `sdejax train` itself on the emoji of the tests,
against the bare jitted step in a loop; several rounds of both, in turn.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import optax

import sdejax as sj
from benchmarks.network import CONFIGS, write
from sdejax.runtime.sharding import train_mesh
from sdejax.training.config import Config, load_config
from sdejax.training.loop import run
from sdejax.training.objective import Objective
from sdejax.training.setup import set_up
from sdejax.training.step import init_state, make_train_step

THREADS = 2
EMOJI = Path(__file__).parents[1] / "tests" / "emoji"


def ours(folder: str, batch: int) -> Callable[[], None]:
    """One step of `make_train_step` on the network of a diffusers folder."""
    model = sj.load(folder)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-4))
    step = make_train_step(model, Objective(), optimiser, 0.999, 0, mesh=train_mesh())
    state = init_state(model.params, optimiser)
    images = jax.numpy.asarray(np.random.default_rng(0).integers(0, 256, (batch, *model.shape), np.uint8))

    def call() -> None:
        nonlocal state
        state, metrics = step(state, images, None)
        metrics["loss"].block_until_ready()

    return call


def theirs(folder: str, batch: int) -> Callable[[], None]:
    """The same work in torch: its fused operations for all parameters at once where it has them."""
    import torch  # pyright: ignore[reportMissingImports]
    from diffusers import UNet2DModel  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(THREADS)
    model = UNet2DModel.from_pretrained(folder, subfolder="unet", low_cpu_mem_usage=False).train()
    parameters = list(model.parameters())
    averages = [p.detach().clone() for p in parameters]
    optimiser = torch.optim.Adam(parameters, 1e-4)
    size = model.config["sample_size"]
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (batch, 3, size, size), np.uint8))

    def call() -> None:
        images = pixels.float() / 127.5 - 1.0
        times, noise = torch.rand(batch), torch.randn_like(images)
        integral = times * (0.1 + 0.5 * 19.9 * times)
        alpha = torch.exp(-0.5 * integral)[:, None, None, None]
        sigma = torch.sqrt(-torch.expm1(-integral))[:, None, None, None]
        optimiser.zero_grad()
        loss = torch.nn.functional.mse_loss(model(alpha * images + sigma * noise, 999.0 * times).sample, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, [p.detach() for p in parameters], 1e-3)  # pyright: ignore
        loss.item()

    return call


def seconds(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def against_torch(name: str, batch: int, budget: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(name, folder)
        calls = {"ours": ours(folder, batch), "torch": theirs(folder, batch)}
        for call in calls.values():
            call()
        rounds = max(3, min(25, int(budget / (2 * sum(seconds(call) for call in calls.values())))))
        times: dict[str, list[float]] = {how: [] for how in calls}
        for _ in range(rounds):
            for how, call in calls.items():
                call()
                times[how].append(seconds(call))
    ratio = statistics.median(a / b for a, b in zip(times["ours"], times["torch"], strict=True))
    medians = "  ".join(f"{how} {1e3 * statistics.median(v):.0f} ms" for how, v in times.items())
    print(f"{name}, batch {batch}: {medians}  ours / torch {ratio:.2f}  ({rounds} rounds)", flush=True)


def overhead(config: Config, steps: int, rounds: int) -> None:
    """Seconds per step of the program over those of the bare step."""
    setup = set_up(config)
    state = setup.fresh_state()
    batch = {"image": np.zeros((config.batch, *setup.model.shape), np.uint8)}
    if setup.conditions is not None:
        batch["tokens"] = setup.conditions[np.arange(config.batch) % len(setup.conditions)]
    inputs = setup.inputs(batch)
    state, _ = setup.step(state, *inputs)
    bare, whole = [], []
    for number in range(1, rounds + 1):
        # Each start of the program gives two windows of metrics; the first has its compilation.
        run(dataclasses.replace(config, steps=2 * steps * number, log_every=steps, checkpoint_every=2 * steps))
        rows = [json.loads(line) for line in (config.folder / "metrics.jsonl").read_text().splitlines()]
        whole.append(config.batch / rows[-1]["images_per_second"])
        started = time.perf_counter()
        for _ in range(steps):
            state, _ = setup.step(state, *inputs)
        state.step.block_until_ready()
        bare.append((time.perf_counter() - started) / steps)
    ratio = statistics.median(a / b for a, b in zip(whole, bare, strict=True))
    print(
        f"{config.name}: the program {1e3 * statistics.median(whole):.1f} ms a step, the bare step "
        f"{1e3 * statistics.median(bare):.1f} ms, ratio {ratio:.3f}  ({rounds} rounds of {steps} steps)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=["small", "ddpm-cifar10-32"], choices=list(CONFIGS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of timed rounds per network")
    parser.add_argument("--steps", type=int, default=30, help="steps of a round of the loop")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"jax {jax.__version__} on {jax.device_count()} x {jax.devices()[0].device_kind}")
    for name in arguments.networks:
        against_torch(name, arguments.batch, arguments.budget)
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        given = load_config(Path(__file__).parents[1] / "configs" / "emoji32.py")
        config = dataclasses.replace(
            given, data=str(EMOJI), validation="", out=folder + "/run", sample_every=0, ema=(0.999,)
        )
        overhead(config, arguments.steps, arguments.rounds)


if __name__ == "__main__":
    main()
