"""The memory of each editing method, as its compiled program plans it: `python -m benchmarks.method_memory`.

Two figures for each: what the method itself holds beside its images, keys and result, in batches of images (with
denoisers in closed form, which hold next to nothing, at 20 and at 500 steps), and the MiB of the whole program with the
snapshot's network, at 20 steps.
"""

import dataclasses

import jax
import numpy as np

import sdejax as sj
from sdejax.edit.methods import METHODS, Method


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The memory of each editing method."""

    snapshot: str = "checkpoints/emoji32"
    batch: int = 8


def temporary_bytes(
    method: Method, source: sj.Denoiser, target: sj.Denoiser, sde: sj.SDE, images: np.ndarray, steps: int
) -> int:
    """What the program of `method` for `images` needs beside its arguments and its result."""

    def edit(source: sj.Denoiser, target: sj.Denoiser, images: jax.Array, keys: jax.Array) -> jax.Array:
        return method.edit(source, target, sde, images, keys, strength=0.8, mask=None, sampler=sj.Sampler(steps))

    keys = sj.keys(range(len(images)))
    analysis = jax.jit(edit).lower(source, target, images, keys).compile().memory_analysis()
    if analysis is None:
        raise SystemExit("this backend does not tell what memory a program needs")
    return analysis.temp_size_in_bytes


def main() -> None:
    import tyro

    arguments = tyro.cli(Arguments)
    model = sj.load(arguments.snapshot)
    images = np.zeros((arguments.batch, *model.shape), np.float32)
    source, target = (model.denoiser([prompt] * arguments.batch) for prompt in ("red heart", "blue heart"))
    closed = (sj.GaussianDenoiser(model.sde, -0.5, 0.5), sj.GaussianDenoiser(model.sde, 0.5, 0.5))
    print(f"a batch is {arguments.batch} images of {images[0].nbytes} bytes")
    print("| method | batches of images, 20 steps | 500 steps | MiB with the network |\n|---|---|---|---|")
    for name, method in METHODS.items():
        few, many = (temporary_bytes(method, *closed, model.sde, images, steps) / images.nbytes for steps in (20, 500))
        whole = temporary_bytes(method, source, target, model.sde, images, 20) / 2**20
        print(f"| {name} | {few:.1f} | {many:.1f} | {whole:.1f} |", flush=True)


if __name__ == "__main__":
    main()
