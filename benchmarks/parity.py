"""Our networks and samplers against diffusers' on torch: `python -m benchmarks.parity` (extra `bench`).

Each network gets random weights, drawn by name so that anyone can draw them again. diffusers writes it, `sdejax.load`
reads it, and both compute the denoiser at several noise levels. Then both run SDEdit, ours and by the steps of
diffusers' DDPM and DDIM schedulers, with the same noise on the same levels.

`--golden FOLDER` writes diffusers' results for the small networks, for tests that run without torch.
"""

import argparse
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from diffusers import (  # pyright: ignore[reportMissingImports]
    DDIMScheduler,
    DDPMScheduler,
    ScoreSdeVeScheduler,
    UNet2DModel,
)
from diffusers.schedulers import scheduling_ddpm  # pyright: ignore[reportMissingImports]

import sdejax as sj
from sdejax.noise.brownian import BrownianPaths, clock
from sdejax.noise.keys import stream
from tests.peers import CLASS, LEVELS, draw, image

DDPM = {"downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6}
_NCSNPP = {
    "time_embedding_type": "fourier",
    "norm_num_groups": None,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
    "center_input_sample": True,
    "mid_block_scale_factor": 2**0.5,
}


def blocks(family: str, attends: list[bool]) -> dict[str, tuple[str, ...]]:
    """The block types of a network; `attends` says which levels have attention, finest first."""
    names = ["Attn" * attend + family for attend in attends]
    return {
        "down_block_types": tuple(f"{name}DownBlock2D" for name in names),
        "up_block_types": tuple(f"{name}UpBlock2D" for name in reversed(names)),
    }


SMALL = {
    "ddpm": {
        **DDPM,
        **blocks("", [False, True]),
        "sample_size": 16,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "attention_head_dim": None,
    },
    # What `UNet2DModel` makes of a user who sets little.
    "ddpm-classes": {
        **DDPM,
        **blocks("", [False, True]),
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "attention_head_dim": None,
        "num_class_embeds": 5,
    },
    "ddpm-defaults": {
        **blocks("", [False, True, True]),
        "sample_size": 16,
        "block_out_channels": (32, 32, 64),
        "layers_per_block": 1,
    },
    "ncsnpp": {
        **_NCSNPP,
        **blocks("Skip", [False, True, False]),
        "sample_size": 16,
        "block_out_channels": (32, 64, 64),
        "layers_per_block": 1,
    },
    "ncsnpp-uncentred": {
        **_NCSNPP,
        **blocks("Skip", [False, True]),
        "sample_size": 16,
        "block_out_channels": (32, 32),
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "center_input_sample": False,
    },
}
_LSUN = {
    **DDPM,
    **blocks("", [False, False, False, False, True, False]),
    "sample_size": 256,
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "attention_head_dim": None,
}
FULL = {
    "ddpm-cifar10-32": {
        **DDPM,
        **blocks("", [False, True, False, False]),
        "sample_size": 32,
        "block_out_channels": (128, 256, 256, 256),
        "attention_head_dim": None,
    },
    "ddpm-celebahq-256": _LSUN,
    "ncsnpp-celebahq-256": {
        **_NCSNPP,
        **blocks("Skip", [False] * 4 + [True, False, False]),
        "sample_size": 256,
        "block_out_channels": (128, 128, 256, 256, 256, 256, 256),
        "layers_per_block": 2,
    },
    "ncsnpp-ffhq-1024": {
        **_NCSNPP,
        **blocks("Skip", [False] * 6 + [True, False]),
        "sample_size": 1024,
        "block_out_channels": (16, 32, 64, 128, 256, 512, 512, 512),
        "layers_per_block": 1,
    },
}


def peer(config: dict) -> tuple[UNet2DModel, DDPMScheduler | ScoreSdeVeScheduler]:
    """diffusers' network with weights drawn by name, and its scheduler."""
    network = UNet2DModel(**config).eval()
    with torch.no_grad():
        for name, weight in network.state_dict().items():
            weight.copy_(torch.from_numpy(draw(name, tuple(weight.shape))))
    fourier = config.get("time_embedding_type") == "fourier"
    return network, ScoreSdeVeScheduler(sigma_max=348.0) if fourier else DDPMScheduler()


def expected(network: UNet2DModel, scheduler, level: float, x: np.ndarray) -> tuple[float, np.ndarray]:
    """(t, D) by diffusers for an image x (b, h, w, c) in [-1, 1] to which noise is added.

    `level` in [0, 1] is a share of the levels of a DDPM, or a place between the noise levels of VE on a logarithmic
    scale. A network with classes is told the class `CLASS`.
    """
    if isinstance(scheduler, ScoreSdeVeScheduler):
        smallest, largest = scheduler.config["sigma_min"], scheduler.config["sigma_max"]
        sigma = smallest * (largest / smallest) ** level
        given = torch.from_numpy(0.5 * (x + 2.0 * sigma * image(1, x.shape)) + 0.5).permute(0, 3, 1, 2)
        with torch.no_grad():
            score = network(given, torch.full(x.shape[:1], sigma)).sample
        clean = 2.0 * (given + sigma**2 * score) - 1.0
        return level, clean.permute(0, 2, 3, 1).numpy()
    k = round(level * 999)
    signal = float(scheduler.alphas_cumprod[k])
    given = torch.from_numpy(signal**0.5 * x + (1.0 - signal) ** 0.5 * image(1, x.shape)).permute(0, 3, 1, 2)
    with torch.no_grad():
        noise = network(given, torch.full(x.shape[:1], k), **told(network, len(x))).sample
    clean = (given - (1.0 - signal) ** 0.5 * noise) / signal**0.5
    return (k + 1) / 1000, clean.permute(0, 2, 3, 1).numpy()


def told(network: UNet2DModel, count: int) -> dict[str, torch.Tensor]:
    """What a network is told beside the image and the level: the class of each image, if it has classes."""
    return {"class_labels": torch.full((count,), CLASS)} if network.config["num_class_embeds"] else {}


def ours(model: sj.Model, t: float, x: np.ndarray) -> np.ndarray:
    """D of our model for the same image with the same noise."""
    noisy = model.sde.perturb(jnp.float32(t), x, image(1, x.shape))
    denoiser = model.denoiser(str(CLASS) if model.config.classes else None)
    return np.asarray(jax.jit(lambda denoiser, t, x: denoiser(t, x))(denoiser, jnp.float32(t), noisy))


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """|a - b| / |b|."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def through_files(network: UNet2DModel, scheduler) -> sj.Model:
    """diffusers' network, written by diffusers and read by `sdejax.load`."""
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(Path(folder) / "unet")
        scheduler.save_pretrained(Path(folder) / "scheduler")
        return sj.load(folder)


EDIT_STEPS, EDIT_FIRST, EDIT_STRIDE = 20, 475, 25  # 20 of 40 steps, as diffusers counts them


def edit_times() -> tuple[float, tuple[float, ...]]:
    """The strength of diffusers' edit, and the fractions of it at which it steps."""
    levels = EDIT_FIRST - EDIT_STRIDE * np.arange(EDIT_STEPS)
    return (EDIT_FIRST + 1) / 1000, tuple(((levels + 1) / (EDIT_FIRST + 1)).tolist())


def edit_noises(sde: sj.SDE, key: jax.Array, shape: tuple[int, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The unit noise of the start and of each step of `sdedit` with the solver of first order."""
    strength, fractions = edit_times()
    own = stream(key, 0)
    start = BrownianPaths(stream(own, 0), shape).start()
    path = BrownianPaths(stream(own, 0), shape, depth=9)
    s = clock(jnp.log(sde.tau(strength * jnp.asarray(fractions))))
    values = [path.evaluate(at) for at in s]
    steps = [np.asarray((b - a) / jnp.sqrt(d)) for a, b, d in zip(values, values[1:], jnp.diff(s), strict=False)]
    return np.asarray(start), steps


def peer_edit(network: UNet2DModel, guide: np.ndarray, noises, stochastic: bool) -> np.ndarray:
    """SDEdit by diffusers' schedulers: the ancestral steps of DDPM, or those of DDIM with eta = 0."""
    scheduler = DDPMScheduler(clip_sample=False) if stochastic else DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(1000 // EDIT_STRIDE)
    start, steps = (torch.from_numpy(np.array(part)).permute(0, 1, 4, 2, 3) for part in (noises[0][None], noises[1]))
    draws = iter(steps)
    # The scheduler would draw its own noise, but must take ours.
    scheduling_ddpm.randn_tensor = lambda *args, **kwargs: next(draws)
    levels = [int(k) for k in scheduler.timesteps if k <= EDIT_FIRST]
    clean = torch.from_numpy(guide).permute(0, 3, 1, 2)
    x = scheduler.add_noise(clean, start[0], torch.IntTensor([levels[0]]))
    for k in levels:
        with torch.no_grad():
            x = scheduler.step(network(x, k).sample, k, x, return_dict=False)[0]
    return x.permute(0, 2, 3, 1).numpy()


def our_edit(model: sj.Model, guide: np.ndarray, keys: jax.Array, stochastic: bool) -> np.ndarray:
    """The same edit by `sdedit`."""
    strength, fractions = edit_times()
    sampler = sj.Sampler(EDIT_STEPS, fractions, sj.Exponential(1), float(stochastic))
    return np.asarray(sj.sdedit(model.denoiser(), model.sde, guide, keys, strength=strength, sampler=sampler))


def golden(folder: Path) -> None:
    """Write diffusers' results for the small networks."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, config in SMALL.items():
        network, scheduler = peer(config)
        x = image(0, (1, config["sample_size"], config["sample_size"], 3))
        said = {f"denoised-{i}": expected(network, scheduler, level, x)[1] for i, level in enumerate(LEVELS)}
        times = [expected(network, scheduler, level, x)[0] for level in LEVELS]
        description = {
            "unet": json.loads(network.to_json_string()),
            "scheduler": json.loads(scheduler.to_json_string()),
            "weights": {key: list(value.shape) for key, value in network.state_dict().items()},
            "times": times,
            "made_by": "python -m benchmarks.parity --golden tests/golden",
        }
        if name == "ddpm":
            noises = edit_noises(through_files(network, scheduler).sde, sj.keys([0]), x.shape[1:])
            said["edit-ode"] = peer_edit(network, x, noises, False)
            said["edit-sde"] = peer_edit(network, x, noises, True)
        np.savez_compressed(folder / f"{name}.npz", **said)  # pyright: ignore[reportArgumentType]
        (folder / f"{name}.json").write_text(json.dumps(description) + "\n")
        print(f"{name}: {', '.join(said)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, help="write diffusers' results for the tests, and stop")
    parser.add_argument("--small", action="store_true", help="only the small networks")
    arguments = parser.parse_args()
    if arguments.golden:
        golden(arguments.golden)
        return
    worst = 0.0
    print("network              parameters   |D - D of diffusers| / |D of diffusers|, from little noise to much")
    for name, config in {**SMALL, **({} if arguments.small else FULL)}.items():
        network, scheduler = peer(config)
        model = through_files(network, scheduler)
        x = image(0, (1, config["sample_size"], config["sample_size"], 3))
        errors = []
        for level in LEVELS:
            t, clean = expected(network, scheduler, level, x)
            errors.append(relative(ours(model, t, x), clean))
        worst = max(worst, *errors)
        shown = " ".join(f"{error:.1e}" for error in errors)
        print(f"{name:20} {model.parameter_count / 1e6:8.3f} M   {shown}", flush=True)
    network, scheduler = peer(SMALL["ddpm"])
    model = through_files(network, scheduler)
    guide = image(0, (1, 16, 16, 3))
    noises = edit_noises(model.sde, sj.keys([0]), guide.shape[1:])
    print(f"SDEdit of {EDIT_STEPS} steps against diffusers' schedulers")
    for name, stochastic in (("DDIM, lam = 0", False), ("DDPM, lam = 1", True)):
        wanted = peer_edit(network, guide, noises, stochastic)
        error = relative(our_edit(model, guide, sj.keys([0]), stochastic), wanted)
        print(f"{name:20} {error:.1e}")
        worst = max(worst, 0.1 * error)
    if worst > 1e-4:
        raise SystemExit(f"parity: {worst:.1e} is more than 1e-4 of a denoiser, or 1e-3 of an edit")


if __name__ == "__main__":
    main()
