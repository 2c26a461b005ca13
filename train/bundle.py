"""A finished run as a snapshot to hand out: `python -m train.bundle CONFIG OUT`.

OUT gets the snapshot of the run's EMA weights (in half precision, for git's sake), a sheet of samples (the first
held-out captions, seeds 0 to 63, none picked), and a card with the data, its licence, steps, hardware, hours, and the
validation loss by noise level.
"""

import dataclasses
import json
import os
import platform
import sys
from pathlib import Path

import jax
import numpy as np

from sdejax.checkpoint import Checkpoints, save
from sdejax.config import Config, load_config
from sdejax.images import contact_sheet, save_png, to_image, write_atomically
from sdejax.model import Model
from sdejax.sample import keys, sample
from sdejax.sampler import Sampler
from sdejax.training import init_state
from train.loop import make_optimiser, prepare
from train.report import quiet_denoiser, validation_loss

_SAMPLES = 64


def bundle(config: Config, out: Path, licence: str, note: str = "") -> None:
    """Write the bundled snapshot of the run of `config`."""
    _, held_out, model = prepare(config)
    checkpoints = Checkpoints(config.folder / "checkpoints", config.checkpoints_kept)
    state = checkpoints.restore(init_state(model.params, make_optimiser(config)))
    if state is None:
        raise ValueError(f"out={str(config.folder)!r}: has no checkpoint; train first")
    model = dataclasses.replace(model, params=state.ema)
    save(out, model, dtype="float16")
    captions = list(held_out.captions[:_SAMPLES]) if held_out is not None else [""] * _SAMPLES
    prompts = captions if model.vocabulary is not None else None
    denoiser = quiet_denoiser(model, prompts, 2.0 if prompts else None)
    images = sample(denoiser, model.sde, keys(range(len(captions))), model.shape, sampler=Sampler(steps=50))
    sheet = contact_sheet([to_image(image) for image in np.asarray(images)], columns=16, scale=2)
    save_png(out / "samples.png", sheet)
    losses = validation_loss(model, model.params, held_out, config.seed) if held_out is not None else {}
    card = _card(config, model, int(state.step), _hours(config), losses, captions if prompts else [], licence, note)
    write_atomically(out / "README.md", card.encode())


def _hours(config: Config) -> float:
    """The hours spent in training steps, from the run's own metrics."""
    seconds = 0.0
    for line in (config.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "images_per_second" in row:
            seconds += config.log_every * config.batch / row["images_per_second"]
    return seconds / 3600.0


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
    hours: float,
    losses: dict[str, float],
    captions: list[str],
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
| Hours | {hours:.1f} |
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
"""


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
