"""What a person sees of a run: a progress bar or plain lines, metrics as JSON lines, sample sheets."""

import dataclasses
import json
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sdejax.compiling import jit
from sdejax.config import Config
from sdejax.denoiser import Denoiser
from sdejax.images import contact_sheet, save_png, to_image
from sdejax.model import Model, UnknownWordWarning
from sdejax.sample import keys, sample
from sdejax.sampler import Sampler
from sdejax.sde import SDE
from sdejax.training import TrainState
from train.data import ImageFolder, decode, normalise

VALIDATION_LEVELS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


class Console:
    """One status line on a terminal, plain lines elsewhere; every metric also goes to metrics.jsonl."""

    def __init__(self, config: Config, start: int, images: int, parameters: int):
        self.metrics = config.folder / "metrics.jsonl"
        self.rich = RichConsole(file=sys.stderr)
        self.progress = Progress(
            TextColumn(config.name),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=self.rich,
            disable=not self.rich.is_terminal,
        )
        self.task = self.progress.add_task("train", total=config.steps, completed=start, status="compiling")
        self.say(
            f"{config.name}: {parameters / 1e6:.2f} M parameters, {images} images, "
            f"steps {start} to {config.steps} of {config.batch}, in {config.folder}"
        )

    def __enter__(self) -> "Console":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.rich.print(text, highlight=False, soft_wrap=True)

    def log(self, row: dict[str, Any]) -> None:
        """Show and keep a row of metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if "loss" in row:
            status = f"loss {row['loss']:.4f}  {row['images_per_second']:.1f} images/s"
            self.progress.update(self.task, completed=row["step"], status=status)
            if not self.rich.is_terminal:
                self.say(f"step {row['step']}  {status}")
        else:
            levels = "  ".join(f"{level}: {loss:.4f}" for level, loss in row["validation"].items())
            self.say(f"step {row['step']}  validation loss of the denoiser by noise level  {levels}")


@partial(jit, static_argnames=("sde",))
def _denoiser_error(denoiser: Denoiser, sde: SDE, t: jax.Array, images: jax.Array, noise: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(denoiser(t, sde.perturb(t, images, noise)) - images))


def quiet_denoiser(model: Model, captions: Sequence[str] | None, guidance: float | None = None) -> Denoiser:
    """The denoiser for captions that may have words of their own, as held-out ones do, without the warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownWordWarning)
        return model.denoiser(captions, guidance)


def validation_loss(model: Model, params: Any, images: ImageFolder, seed: int, count: int = 256) -> dict[str, float]:
    """E |D - x0|^2 per value at fixed noise levels, on the first `count` held-out images with their captions."""
    batch = jnp.asarray(normalise(np.stack([decode(path, model.shape) for path in images.files[:count]])))
    captions = images.captions[:count] if model.vocabulary is not None else None
    denoiser = quiet_denoiser(dataclasses.replace(model, params=params), captions)
    losses = {}
    for i, level in enumerate(VALIDATION_LEVELS):
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(seed), i), batch.shape)
        time = model.sde.time(np.float32(level**2))
        losses[str(level)] = round(float(_denoiser_error(denoiser, model.sde, time, batch, noise)), 6)
    return losses


def sample_sheet(path: Path, model: Model, state: TrainState, images: ImageFolder, count: int = 16) -> None:
    """Samples of the raw weights above samples of the EMA weights: the same seeds, the prompts of `images`."""
    chosen = np.linspace(0, len(images.files) - 1, count).astype(int)
    prompts = [images.captions[i] for i in chosen] if model.vocabulary is not None else None
    rows = []
    for params in (state.params, state.ema):
        denoiser = quiet_denoiser(dataclasses.replace(model, params=params), prompts)
        drawn = sample(denoiser, model.sde, keys(range(count)), model.shape, sampler=Sampler(steps=20))
        rows.extend(to_image(image) for image in np.asarray(drawn))
    save_png(path, contact_sheet(rows, columns=count, scale=1 if model.shape[0] > 64 else 2))
