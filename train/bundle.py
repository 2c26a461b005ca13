"""Turn a finished run into a snapshot to publish: `python -m train.bundle CONFIG OUT`.

The folder OUT gets:

- the snapshot of the run's EMA weights, in half precision to keep the git repository small,
- a sheet of samples for the first held-out captions, seeds 0 to 63, not selected by hand,
- a sheet with the nearest training image beside each sample,
- the curves of the run,
- a card with the data, its licence, the steps, hardware and hours, and the validation loss by noise level.
"""

import dataclasses
import json
import os
import platform
import sys
from pathlib import Path

import jax
import numpy as np

from sdejax.media.images import contact_sheet, save_png, to_array, to_image
from sdejax.model.model import Model
from sdejax.model.snapshot import load_snapshot, save
from sdejax.noise.keys import keys
from sdejax.runtime.files import write_atomically
from sdejax.runtime.sharding import fetch
from sdejax.sampling.sample import sample
from sdejax.solvers.sampler import Sampler
from sdejax.training.checkpoints import Checkpoints
from sdejax.training.config import Config, load_config
from sdejax.training.console import MetricsRow
from sdejax.training.curves import draw_curves
from sdejax.training.data.batches import load
from sdejax.training.setup import Setup, set_up
from sdejax.training.validation import quiet_denoiser

_SAMPLES = 64
# Two images look the same if their root mean squared difference in [-1, 1] is below this: 6 of 255 levels.
_COPY = 0.05


def bundle(config: Config, out: Path, licence: str, note: str = "") -> None:
    """Write the snapshot, the pictures and the card of the run of `config` to `out`.

    **Raises:** `ValueError` if the run has no checkpoint, or if matplotlib is not installed.
    """
    setup = set_up(config)
    checkpoints = Checkpoints(config.checkpoints or config.folder / "checkpoints", config.checkpoints_kept)
    found = checkpoints.restore(setup.abstract)
    if found is None:
        raise ValueError(f"out={str(config.folder)!r}: has no checkpoint; train first")
    state = found[0]
    rows = _rows(config)
    curves = draw_curves(rows)
    save(out, setup.model.with_params(fetch(state.ema[0], setup.mesh)), dtype="float16")
    # The samples and losses are those of the written snapshot, in half precision.
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
    facts = _facts(config, model, int(state.step), rows, licence, note)
    text = _samples_text(captions if prompts else [], "![samples](samples.png)")
    card = _card(config.name, model, facts, losses, nearest, text)
    write_atomically(out / "README.md", card.encode())


@dataclasses.dataclass(frozen=True)
class Nearest:
    """The nearest training image of each sample.

    `images` are these images (n, h, w, c) in [-1, 1]. `distances` (n,) are the roots of the mean squared differences
    to the samples. `held_out` are the same distances for up to n held-out images. The distances of a model that only
    reproduces its training images are much smaller.
    """

    images: np.ndarray
    distances: np.ndarray
    held_out: np.ndarray


def nearest_training_images(setup: Setup, samples: np.ndarray) -> Nearest:
    """Compare `samples` (n, h, w, c) with all training images."""
    count = len(setup.images.names)
    training = to_array(load(setup.images, range(count), setup.model.shape, setup.config.crop))
    index, distances = _nearest(samples, training)
    held_out = np.zeros(0)
    if setup.held_out is not None:
        few = range(min(len(samples), len(setup.held_out.names)))
        held_out = _nearest(to_array(load(setup.held_out, few, setup.model.shape, setup.config.crop)), training)[1]
    return Nearest(training[index], distances, held_out)


def _nearest(images: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of the `images`, the index of the nearest of the `others`, and its distance."""
    flat, rest = images.reshape(len(images), -1), others.reshape(len(others), -1)
    squares = (flat**2).sum(1)[:, None] - 2.0 * flat @ rest.T + (rest**2).sum(1)
    index = squares.argmin(axis=1)
    return index, np.sqrt(np.mean((flat - rest[index]) ** 2, axis=1))


def _rows(config: Config) -> list[MetricsRow]:
    """Read the metrics of a run."""
    lines = (config.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _hours(config: Config, rows: list[MetricsRow]) -> float:
    """The hours spent in training steps, computed from the metrics of a run."""
    rates = [row["images_per_second"] for row in rows if "images_per_second" in row]
    return sum(config.log_every * config.batch / rate for rate in rates) / 3600.0


def _processor() -> str:
    """The name of the processor, or its architecture if the system does not report the name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _facts(
    config: Config, model: Model, steps: int, history: list[MetricsRow], licence: str, note: str
) -> dict[str, str]:
    """What the first table of the card says."""
    device = jax.devices()[0]
    hardware = f"{os.cpu_count()} cores of {_processor()}" if device.platform == "cpu" else device.device_kind
    facts = {
        "Data": config.data,
        "Licence": licence,
        "Process": str(model.sde),
        "Parametrisation": str(model.parametrisation),
        "Steps": f"{steps} of {config.batch} images",
        "Hardware": hardware,
        "Hours": f"{_hours(config, history):.1f}",
        "Config": f"the committed configs/{config.name}.py",
    }
    return facts | ({"Note": note} if note else {})


def _samples_text(captions: list[str], samples: str) -> str:
    """What the card says about the samples, whose picture is `samples`."""
    seeds = f"50 steps, seeds 0 to {_SAMPLES - 1}"
    if not captions:
        return f"{seeds.capitalize()}. No sample was selected by hand.\n\n{samples}"
    return (
        f"Guidance 2, {seeds}. The prompts are the first held-out captions, which were never trained on.\n"
        f"No sample was selected by hand.\n\n{samples}\n\nThe prompts of the first row: {'; '.join(captions[:16])}."
    )


def _card(name: str, model: Model, facts: dict[str, str], losses: dict[str, float], nearest: Nearest, text: str) -> str:
    """The text of the card; `text` is its part about the samples."""
    table = "\n".join(f"| {fact} | {value} |" for fact, value in facts.items())
    rows = "\n".join(f"| {level} | {loss:.5f} |" for level, loss in losses.items())
    kind = "unlabelled" if model.vocabulary is None else "captioned"
    return f"""# {name}

{model.parameter_count / 1e6:.2f} M parameters, {model.shape[0]} x {model.shape[1]}, {kind}.

| | |
|---|---|
{table}

## Validation loss

E |D - x0|^2 per value in [-1, 1], by noise level sigma / alpha, for the EMA weights on held-out images:

| noise level | loss |
|---|---|
{rows}

## Samples

{text}

## Nearest training images

To the right of each sample is the training image nearest to it. The quartiles of their root mean squared difference in
[-1, 1] are {_quartiles(nearest.distances)}; between held-out images and their nearest training images they are
{_quartiles(nearest.held_out)}. {_copies(nearest)}

![nearest](nearest.png)

## Curves

The training loss, and the denoiser's error on held-out images by noise level, over the steps:

![curves](curves.png)
"""


def _quartiles(distances: np.ndarray) -> str:
    if not len(distances):
        return "unknown"
    return ", ".join(f"{value:.3f}" for value in np.quantile(distances, (0.25, 0.5, 0.75)))


def _copies(nearest: Nearest) -> str:
    copies = int((nearest.distances < _COPY).sum())
    count = len(nearest.distances)
    return f"{copies} of {count} samples are copies: their distance to a training image is below {_COPY}."


@dataclasses.dataclass(frozen=True)
class _Arguments:
    """Turn a finished run into a snapshot to publish."""

    config: str
    """The run's config file."""
    out: str
    """The snapshot folder to write."""
    licence: str = (
        "weights Apache-2.0; images drawn from Noto Color Emoji (SIL OFL 1.1), names from Unicode (Unicode licence)"
    )
    """The licences that the card states."""
    note: str = ""
    """A further note for the card, such as how the run differed from its config."""
    run: str = ""
    """The folder of the run, if it is not that of the config."""


def main() -> int:
    """Run the command and return its exit code."""
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
