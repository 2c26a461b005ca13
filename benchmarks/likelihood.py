"""Bits per dimension of held-out images: `python -m benchmarks.likelihood [--snapshot SNAPSHOT] [--data FOLDER]`.

By the probability-flow ODE with one Rademacher probe an image (`sdejax.bits_per_dimension`), given the images' own
captions and without; with `--train FOLDER` also of as many images that the model was trained on. A folder has images
and a `captions.jsonl`, as `python -m train.emoji` writes them; `--count` of its images are taken, evenly spread.
Held-out captions may have words that the model does not know; it reads them as unknown.
"""

import dataclasses
import json
import time
import warnings
from pathlib import Path

import jax
import numpy as np

import sdejax as sj
from sdejax.media.images import fit, open_image


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Bits per dimension of held-out images."""

    snapshot: str = "checkpoints/emoji32"
    data: str = "data/emoji32/heldout"
    train: str = ""
    """A folder of images that the model was trained on, for comparison."""
    count: int = 128
    """How many images of each folder."""
    batch: int = 16
    levels: tuple[float, ...] = (0.01,)
    """The noise levels that the images are taken to have."""
    tolerance: float = 1e-4
    probes: int = 1
    seed: int = 0


def read(folder: Path, shape: tuple[int, int, int], count: int) -> tuple[np.ndarray, list[str]]:
    """`count` images of a folder (n, h, w, c) of 8 bits, evenly spread over it, and their captions."""
    lines = (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    chosen = np.unique(np.linspace(0, len(lines) - 1, count).astype(int))
    rows = [json.loads(lines[i]) for i in chosen]
    height, width, channels = shape
    pictures = [fit(open_image(folder / row["file"], channels), width, height) for row in rows]
    return np.stack([np.asarray(picture).reshape(shape) for picture in pictures]), [row["caption"] for row in rows]


def denoiser_of(model: sj.Model, captions: list[str] | None) -> sj.Denoiser:
    """The denoiser for captions that may have words of their own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sj.UnknownWordWarning)
        return model.denoiser(captions)


def bits(
    model: sj.Model, images: np.ndarray, captions: list[str] | None, level: float, arguments: Arguments
) -> tuple[np.ndarray, np.ndarray]:
    """Bits per dimension and evaluations of each image."""
    found = []
    for first in range(0, len(images), arguments.batch):
        some = slice(first, first + arguments.batch)
        seeds = range(arguments.seed * len(images), (arguments.seed + 1) * len(images))[some]
        likelihood = sj.bits_per_dimension(
            denoiser_of(model, captions and captions[some]),
            model.sde,
            images[some],
            sj.keys(seeds),
            level=level,
            probes=arguments.probes,
            rtol=arguments.tolerance,
            atol=arguments.tolerance,
        )
        found.append((np.asarray(likelihood.value), np.asarray(likelihood.evaluations)))
    values, evaluations = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return values, evaluations


def main() -> None:
    import tyro

    arguments = tyro.cli(Arguments)
    model = sj.load(arguments.snapshot)
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, tolerance {arguments.tolerance:g}")
    print("images     captions   level   number   bits per dimension   evaluations   seconds an image")
    for name, folder in (("held-out", arguments.data), ("training", arguments.train)):
        if not folder:
            continue
        images, captions = read(Path(folder), model.shape, arguments.count)
        for given in (captions, None) if model.conditioner.prompted else (None,):
            for level in arguments.levels:
                for size in {min(arguments.batch, len(images)), len(images) % arguments.batch} - {0}:
                    bits(model, images[:size], given and given[:size], level, arguments)  # compiles
                started = time.perf_counter()
                values, evaluations = bits(model, images, given, level, arguments)
                seconds = (time.perf_counter() - started) / len(values)
                error = values.std(ddof=1) / len(values) ** 0.5
                print(
                    f"{name:10} {'own' if given else 'none':8} {level:7g} {len(values):8} {values.mean():12.3f} +- "
                    f"{error:.3f} {evaluations.mean():13.0f} {seconds:18.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
