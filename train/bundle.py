"""A finished run as a snapshot to hand out: `python -m train.bundle CONFIG OUT`.

OUT gets the snapshot of the run's EMA weights (in half precision, for git's sake), a sheet of samples (the first
held-out captions, seeds 0 to 63, none picked), each of them beside the training image that is nearest to it, the curves
of the run, and a card with the data, its licence, steps, hardware, hours, and the validation loss by noise level.
"""

import dataclasses
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sdejax.media.images import contact_sheet, save_png, to_array, to_image, write_atomically
from sdejax.model.model import Model
from sdejax.model.snapshot import load_snapshot, save
from sdejax.noise.keys import keys
from sdejax.runtime.sharding import fetch
from sdejax.sampling.sample import sample
from sdejax.solvers.sampler import Sampler
from sdejax.training.checkpoints import Checkpoints
from sdejax.training.config import Config, load_config
from sdejax.training.curves import draw_curves
from sdejax.training.data.batches import load
from sdejax.training.setup import Setup, set_up
from sdejax.training.validation import quiet_denoiser

_SAMPLES = 64
_COPY = 0.05  # root mean squared difference in [-1, 1], six of 255 shades, below which nobody tells two images apart


def bundle(config: Config, out: Path, licence: str, note: str = "") -> None:
    """Write the bundled snapshot of the run of `config`."""
    setup = set_up(config)
    checkpoints = Checkpoints(config.checkpoints or config.folder / "checkpoints", config.checkpoints_kept)
    found = checkpoints.restore(setup.abstract)
    if found is None:
        raise ValueError(f"out={str(config.folder)!r}: has no checkpoint; train first")
    state = found[0]
    rows = _rows(config)
    curves = draw_curves(rows)
    save(out, setup.model.with_params(fetch(state.ema[0], setup.mesh)), dtype="float16")
    # What is shown and measured is the snapshot as it was written, in half precision.
    model = load_snapshot(out)
    shown = setup.held_out or setup.images
    captions = list(shown.captions[:_SAMPLES])
    prompts = captions if model.conditioner.prompted else None
    denoiser = quiet_denoiser(model, prompts, 2.0 if prompts else None)
    sampler = Sampler(50, "log_snr")
    images = np.asarray(sample(denoiser, model.sde, keys(range(len(captions))), model.shape, sampler=sampler))
    save_png(out / "samples.png", contact_sheet([to_image(image) for image in images], columns=16, scale=2))
    nearest = nearest_training_images(setup, images)
    pairs = [to_image(image) for pair in zip(images, nearest.images, strict=True) for image in pair]
    save_png(out / "nearest.png", contact_sheet(pairs, columns=16, scale=2))
    write_atomically(out / "curves.png", curves)
    validation = setup.validation()
    losses = validation.loss(model.params) if validation is not None else {}
    card = _card(config, model, int(state.step), rows, losses, captions if prompts else [], nearest, licence, note)
    write_atomically(out / "README.md", card.encode())


@dataclasses.dataclass(frozen=True)
class Nearest:
    """The training image nearest to each sample, (n, h, w, c) in [-1, 1], and the distances.

    A distance is the root of the mean squared difference in [-1, 1]. `held_out` are the distances of as many held-out
    images to their nearest training images: a model that only recalls lies far below them.
    """

    images: np.ndarray
    distances: np.ndarray
    held_out: np.ndarray


def nearest_training_images(setup: Setup, samples: np.ndarray) -> Nearest:
    """Compare `samples` (n, h, w, c) with every training image."""
    count = len(setup.images.names)
    training = to_array(load(setup.images, range(count), setup.model.shape, setup.config.crop))
    index, distances = _nearest(samples, training)
    held_out = np.zeros(0)
    if setup.held_out is not None:
        few = range(min(len(samples), len(setup.held_out.names)))
        held_out = _nearest(to_array(load(setup.held_out, few, setup.model.shape, setup.config.crop)), training)[1]
    return Nearest(training[index], distances, held_out)


def _nearest(images: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flat, rest = images.reshape(len(images), -1), others.reshape(len(others), -1)
    squares = (flat**2).sum(1)[:, None] - 2.0 * flat @ rest.T + (rest**2).sum(1)
    index = squares.argmin(axis=1)
    return index, np.sqrt(np.mean((flat - rest[index]) ** 2, axis=1))


def _rows(config: Config) -> list[dict[str, Any]]:
    lines = (config.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _hours(config: Config, rows: list[dict[str, Any]]) -> float:
    """The hours spent in training steps, from the run's own metrics."""
    rates = [row["images_per_second"] for row in rows if "images_per_second" in row]
    return sum(config.log_every * config.batch / rate for rate in rates) / 3600.0


def _processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    names = info.read_text().splitlines() if info.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in names if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _card(
    config: Config,
    model: Model,
    steps: int,
    history: list[dict[str, Any]],
    losses: dict[str, float],
    captions: list[str],
    nearest: Nearest,
    licence: str,
    note: str,
) -> str:
    rows = "\n".join(f"| {level} | {loss:.5f} |" for level, loss in losses.items())
    device = jax.devices()[0]
    hardware = f"{os.cpu_count()} cores of {_processor()}" if device.platform == "cpu" else device.device_kind
    kind = "captioned" if captions else "unlabelled"
    listed = "; ".join(captions[:16])
    remark = f"\n| Note | {note} |" if note else ""
    return f"""# {config.name}

{model.parameter_count / 1e6:.2f} M parameters, {model.shape[0]} x {model.shape[1]}, {kind}.

| | |
|---|---|
| Data | {config.data} |
| Licence | {licence} |
| Process | {model.sde} |
| Parametrisation | {model.parametrisation} |
| Steps | {steps} of {config.batch} images |
| Hardware | {hardware} |
| Hours | {_hours(config, history):.1f} |
| Config | the committed configs/{config.name}.py |{remark}

## Validation loss

E |D - x0|^2 per value in [-1, 1], EMA weights, held-out images with their captions, by noise level sigma / alpha:

| noise level | loss |
|---|---|
{rows}

## Samples

Guidance 2, 50 steps, seeds 0 to {_SAMPLES - 1}, prompts the first held-out captions (never trained on), none picked:

![samples](samples.png)

The first row's prompts: {listed}.

## Beside the nearest training images

Every sample, and to its right the training image nearest to it. Their root mean squared difference in [-1, 1] is
{_quartiles(nearest.distances)} (quartiles); from held-out images to their nearest training images it is
{_quartiles(nearest.held_out)}. {_recalled(nearest)}

![nearest](nearest.png)

## Curves

Training loss, and the denoiser's error on held-out images by noise level, over the steps:

![curves](curves.png)
"""


def _quartiles(distances: np.ndarray) -> str:
    return (
        ", ".join(f"{value:.3f}" for value in np.quantile(distances, (0.25, 0.5, 0.75)))
        if len(distances)
        else "unknown"
    )


def _recalled(nearest: Nearest) -> str:
    copies = int((nearest.distances < _COPY).sum())
    return f"{copies} of {len(nearest.distances)} samples are copies, nearer than {_COPY} to a training image."


@dataclasses.dataclass(frozen=True)
class _Arguments:
    """A finished run as a snapshot to hand out."""

    config: str
    """The run's config file."""
    out: str
    """The snapshot folder to write."""
    licence: str = (
        "weights Apache-2.0; images drawn from Noto Color Emoji (SIL OFL 1.1), names from Unicode (Unicode licence)"
    )
    """What the card says of licences."""
    note: str = ""
    """What the card says besides, such as how the run differed from its config."""
    run: str = ""
    """The run's folder, where it is not the config's own."""


def main() -> int:
    """The command."""
    import tyro

    arguments = tyro.cli(_Arguments, config=(tyro.conf.PositionalRequiredArgs,))
    try:
        config = load_config(arguments.config)
        config = dataclasses.replace(config, out=arguments.run) if arguments.run else config
        bundle(config, Path(arguments.out), arguments.licence, arguments.note)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
