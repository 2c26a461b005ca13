"""The training loop, top to bottom."""

import dataclasses
import json
import signal
import sys
import time

import jax.numpy as jnp
import numpy as np
import optax

from sdejax.checkpoint import Checkpoints, save
from sdejax.config import Config, config_to_json
from sdejax.images import write_atomically
from sdejax.model import Model
from sdejax.nn.text import Vocabulary
from sdejax.training import init_state, make_train_step
from train.data import ImageFolder, batches, normalise
from train.report import Console, sample_sheet, validation_loss


def make_optimiser(config: Config) -> optax.GradientTransformation:
    """Clipped Adam with warm-up, a constant rate and a linear decay over the last part of the steps."""
    settings = config.optimiser
    decay_steps = max(1, round(settings.decay * config.steps))
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, settings.learning_rate, settings.warmup),
            optax.constant_schedule(settings.learning_rate),
            optax.linear_schedule(settings.learning_rate, 0.0, decay_steps),
        ],
        [settings.warmup, max(settings.warmup, config.steps - decay_steps)],
    )
    return optax.chain(optax.clip_by_global_norm(settings.clip), optax.adam(schedule, settings.beta1, settings.beta2))


def prepare(config: Config) -> tuple[ImageFolder, ImageFolder | None, Model]:
    """The images, the held-out images, and a model with fresh parameters and the vocabulary of the captions."""
    images = ImageFolder.read(config.data, config.captions)
    held_out = ImageFolder.read(config.validation, config.captions) if config.validation else None
    vocabulary = Vocabulary.of(list(images.captions)) if config.captions else None
    network = config.network
    if vocabulary is not None:
        network = dataclasses.replace(network, vocabulary=vocabulary.size, words=vocabulary.length)
    model = Model.create(network, config.sde, config.parametrisation, config.seed, vocabulary)
    return images, held_out, model


def run(config: Config) -> int:
    """Train, or go on training: the same command resumes at the newest checkpoint. The exit code."""
    folder = config.folder
    images, held_out, model = prepare(config)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "config.json", config_to_json(config).encode())
    optimiser = make_optimiser(config)
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoints_kept)
    state = init_state(model.params, optimiser)
    state = checkpoints.restore(state) or state
    start = int(state.step)

    train_step = make_train_step(
        model.graph, config.sde, config.parametrisation, config.objective, optimiser, config.ema_decay, config.seed
    )
    tokens = None if model.vocabulary is None else model.vocabulary.encode(list(images.captions))
    stream = batches(images, model.shape, tokens, batch=config.batch, seed=config.seed, flip=config.flip, start=start)
    console = Console(config, start, len(images.files), model.parameter_count)
    interrupted = _catch_signals()
    since, losses = time.perf_counter(), []
    with console:
        for step in range(start + 1, config.steps + 1):
            batch = next(stream)
            words = jnp.asarray(batch["tokens"]) if "tokens" in batch else None
            state, metrics = train_step(state, jnp.asarray(normalise(batch["image"])), words)
            losses.append(metrics["loss"])
            if step % config.log_every == 0 or step == config.steps:
                loss = float(jnp.mean(jnp.stack(losses)))
                seconds, since = time.perf_counter() - since, time.perf_counter()
                row = {
                    "step": step,
                    "loss": loss,
                    "gradient_norm": float(metrics["gradient_norm"]),
                    "images_per_second": config.batch * len(losses) / seconds,
                }
                losses = []
                console.log(row)
                if not np.isfinite(loss):
                    console.say(f"error: the loss is not finite at step {step}; the newest checkpoint is kept")
                    return 1
            last = step == config.steps or bool(interrupted)
            if held_out is not None and (step % config.validate_every == 0 or step == config.steps):
                by_level = validation_loss(model, state.ema, held_out, config.seed)
                console.log({"step": step, "validation": by_level})
            if config.sample_every and (step % config.sample_every == 0 or step == config.steps):
                sample_sheet(folder / f"samples-{step:07d}.png", model, state, held_out or images)
                since = time.perf_counter()
            if step % config.checkpoint_every == 0 or last:
                checkpoints.save(state)
                save(folder / "snapshot", dataclasses.replace(model, params=state.ema))
            if interrupted:
                break
    checkpoints.close()
    if interrupted:
        print(f"stopped at step {int(state.step)}; the same command goes on from there", file=sys.stderr)
        return 130
    print(json.dumps({"steps": int(state.step), "snapshot": str(folder / "snapshot")}))
    return 0


def _catch_signals() -> list[int]:
    """A list that fills when the person or the machine asks the run to stop; the step under way is finished."""
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    return received
