"""Our network against diffusers' on torch: `python -m benchmarks.network` (extra `bench`), float32 on the CPU.

The same weights and the same input, in one process, one after the other in every round, each warmed by a call of its
own just before the one that is timed; medians, and medians of the ratios. `forward` is one evaluation; `step` is the
loss |output - noise|^2, its gradient, and Adam. Peak memory is of a process that does nothing else.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch  # pyright: ignore[reportMissingImports]
from flax import nnx

import sdejax as sj
from benchmarks.parity import DDPM, FULL, blocks, peer, through_files
from sdejax.compiling import jit
from tests.peers import image

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
LABEL = 500.0
Call = Callable[[], None]


def ours(model: sj.Model, x: Any, task: str) -> Call:
    """One call of our network, its result ready."""
    given, label = jnp.asarray(x), jnp.full(x.shape[:1], LABEL)

    def output(params: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(model.graph, params)(x, label)

    if task == "forward":
        run = jit(output)

        def evaluate() -> None:
            jax.block_until_ready(run(model.params, given))

        return evaluate
    optimiser, noise = optax.adam(1e-4), jnp.asarray(image(1, x.shape))

    def update(params: Any, state: Any) -> Any:
        gradient = jax.grad(lambda params: jnp.mean(jnp.square(output(params, given) - noise)))(params)
        change, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, change), state

    step = jit(update, donate_argnums=(0, 1))
    params = jax.tree.map(jnp.copy, model.params)
    carried = [(params, optimiser.init(params))]

    def call() -> None:
        carried[0] = jax.block_until_ready(step(*carried[0]))

    return call


def theirs(network: torch.nn.Module, x: Any, task: str, how: str) -> Call:
    """One call of the peer's network: "default", "channels_last" or "compile"."""
    given, noise = (torch.from_numpy(v).permute(0, 3, 1, 2).contiguous() for v in (x, image(1, x.shape)))
    label = torch.full(x.shape[:1], LABEL)
    if how == "channels_last":
        network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        given, noise = (v.to(memory_format=torch.channels_last) for v in (given, noise))
    if how == "compile":
        network = torch.compile(network)  # pyright: ignore[reportAssignmentType]
    if task == "forward":

        def evaluate() -> None:
            with torch.no_grad():
                network(given, label)

        return evaluate
    optimiser = torch.optim.Adam(network.parameters(), 1e-4)

    def step() -> None:
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(network(given, label).sample, noise).backward()
        optimiser.step()

    return step


def seconds(call: Call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def build(name: str, batch: int, task: str, how: str) -> Call:
    """The call of one contender: "ours", or one of the peer's."""
    config = CONFIGS[name]
    network, scheduler = peer(config)
    x = image(0, (batch, config["sample_size"], config["sample_size"], 3))
    return ours(through_files(network, scheduler), x, task) if how == "ours" else theirs(network, x, task, how)


def compare(name: str, batch: int, task: str, contenders: list[str], budget: float) -> dict[str, Any]:
    """Medians of alternating calls, as many rounds as fit into `budget` seconds, at least 3 and at most 25."""
    calls, first = {}, {}
    for how in contenders:
        calls[how] = build(name, batch, task, how)
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


def memory(name: str, batch: int, task: str, how: str) -> float:
    """Peak MiB of a process that makes two such calls."""
    command = [sys.executable, "-m", "benchmarks.network", "--memory", name, str(batch), task, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS), choices=list(CONFIGS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--tasks", nargs="+", default=["forward", "step"], choices=["forward", "step"])
    parser.add_argument("--peers", nargs="*", default=["default", "channels_last", "compile"])
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of timed rounds per row")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    if arguments.memory:
        name, batch, task, how = arguments.memory
        call = build(name, int(batch), task, how)
        call()
        call()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    print(f"jax {jax.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads, float32")
    contenders = ["ours", *arguments.peers]
    for name in arguments.configs:
        for task in arguments.tasks:
            for batch in arguments.batches:
                found = compare(name, batch, task, contenders, arguments.budget)
                print(f"{name}, batch {batch}, {task}: medians of {found['rounds']} rounds")
                for how in contenders:
                    ratio = found["ratio"].get(how)
                    peak = "" if arguments.no_memory else f"   {memory(name, batch, task, how):7.0f} MiB"
                    against = "" if ratio is None else f"   ours / it {ratio:.2f}"
                    median, first = 1e3 * found["median"][how], found["first_call"][how]
                    print(f"    {how:14} {median:9.1f} ms   first call {first:6.1f} s{peak}{against}", flush=True)


if __name__ == "__main__":
    main()
