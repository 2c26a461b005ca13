"""The training loop, from top to bottom."""

import dataclasses
import json
import signal
import sys

import grain
import jax
import numpy as np

from sdejax.media.images import save_png
from sdejax.model.snapshot import save
from sdejax.runtime.distributed import Processes, start_processes, time_limit
from sdejax.runtime.files import write_atomically
from sdejax.runtime.sharding import everyone, fetch
from sdejax.training.checkpoints import Checkpoints
from sdejax.training.config import Config, config_to_json
from sdejax.training.console import Console, Metrics
from sdejax.training.data.batches import batches
from sdejax.training.dry_run import describe
from sdejax.training.flops import peak_flops, step_flops
from sdejax.training.setup import Setup, set_up
from sdejax.training.step import TrainState
from sdejax.training.step_monitor import StepMonitor
from sdejax.training.validation import Validation, lag, sample_sheet

_IN_FLIGHT = 2  # steps that the devices may be behind: their results are read only after that many others were started
_PROFILED = (10, 15)  # the steps after the start between which a trace is taken


@dataclasses.dataclass(frozen=True)
class _Run:
    """What the loop works with, and where it reports."""

    setup: Setup
    processes: Processes
    profile: bool
    checkpoints: Checkpoints
    console: Console
    metrics: Metrics
    progress: StepMonitor


def run(config: Config, processes: Processes = Processes(), dry_run: bool = False, profile: bool = False) -> int:  # noqa: B008
    """Train. If the run has checkpoints, it goes on from the newest.

    **Arguments:**

    - `config`: the run.
    - `processes`: how the processes of the run find each other.
    - `dry_run`: print what the run would take, and train nothing.
    - `profile`: write a trace of a few steps to the run's folder.

    **Returns:** the exit code: 0; 1 if something failed; 130 if the run was asked to stop.
    """
    start_processes(processes)
    first, folder = jax.process_index() == 0, config.folder
    setup = set_up(config)
    if dry_run:
        if first:
            print(describe(setup))
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    if first:
        write_atomically(folder / "config.json", config_to_json(config).encode())
    with time_limit(processes.timeout, "starting"):
        checkpoints = Checkpoints(
            config.checkpoints or folder / "checkpoints",
            config.checkpoints_kept,
            config.checkpoints_forever,
            processes.timeout,
            lambda text: print(text, file=sys.stderr) if first else None,
        )
        state, notes = checkpoints.restore(setup.abstract) or (setup.fresh_state(), {})
        start = int(state.step)
    console, metrics = Console(config, start, quiet=not first), Metrics(folder, start, quiet=not first)
    progress = StepMonitor(setup, notes, console, metrics, processes.timeout)
    if peak_flops(jax.devices()[0]) is not None:  # else there is nothing to compare the FLOPs with
        progress.flops = step_flops(setup.step.lower(state, *setup.abstract_inputs()))
    console.say(_head(setup, start))
    with console:
        run = _Run(setup, processes, profile, checkpoints, console, metrics, progress)
        state = _train(run, state, notes.get("position", 0))
    with time_limit(processes.timeout, "closing the checkpoints"):
        checkpoints.close()
    metrics.close()
    return _exit_code(run, int(state.step))


def _train(run: _Run, state: TrainState, position: int) -> TrainState:
    """The steps. `position` counts the images that all processes together have drawn."""
    setup, config, progress = run.setup, run.setup.config, run.progress
    start = int(state.step)
    stream = _batches(setup, position)
    validation, prompts = setup.validation(), setup.prompts()
    signals = _catch_signals()
    for step in range(start + 1, config.steps + 1):
        if run.profile and step - start in _PROFILED:
            _trace(setup, step - start == _PROFILED[0])
        batch = next(stream)
        state, found = setup.step(state, *setup.inputs(batch))
        position += config.batch
        stops = np.full(jax.local_device_count(), len(signals), np.int32)
        progress.started(step, found, everyone((batch["undecodable"].astype(np.int32), stops), setup.mesh))

        last = step == config.steps
        validates = last or step % config.validate_every == 0
        samples = config.sample_every > 0 and (last or step % config.sample_every == 0)
        saves = last or step % config.checkpoint_every == 0
        progress.catch_up(0 if validates or samples or saves else _IN_FLIGHT)
        if progress.failed:
            break
        with time_limit(run.processes.timeout, f"what follows step {step}"), progress.paused():
            if validates and validation is not None:
                _validate(run, step, validation, state)
            if samples:
                _sample(run, step, prompts, state)
            if saves or progress.stopping:
                run.checkpoints.save(state, {"position": position, **progress.notes()})
                _save_snapshots(setup, state)
        if progress.stopping:
            break
    stream.close()
    return state


def _batches(setup: Setup, position: int) -> grain.DatasetIterator[dict[str, np.ndarray]]:
    """This process's batches, from a position on."""
    config = setup.config
    return batches(
        setup.images,
        setup.model.shape,
        setup.conditions,
        batch=config.batch,
        seed=config.seed,
        flip=config.flip,
        crop=config.crop,
        start=position,
        process=jax.process_index(),
        processes=jax.process_count(),
        threads=config.threads,
        workers=config.workers,
    )


def _exit_code(run: _Run, step: int) -> int:
    """Say how the run ended. **Returns:** the exit code."""
    folder, progress, checkpoints = run.setup.config.folder, run.progress, run.checkpoints
    if progress.failed:
        newest = checkpoints.latest()
        kept = (
            "there is no checkpoint"
            if newest is None
            else f"the last good checkpoint is {checkpoints.folder / str(newest)}"
        )
        print(f"error: {progress.stopping}\n{kept}", file=sys.stderr)
        return 1
    if progress.stopping:
        print(f"stopped at step {step}; the same command goes on from there", file=sys.stderr)
        return 130
    if jax.process_index() == 0:
        print(json.dumps({"steps": step, "snapshot": str(folder / "snapshot")}))
    return 0


def _head(setup: Setup, start: int) -> str:
    config, devices = setup.config, setup.mesh.size
    return (
        f"{config.name}: {setup.model.parameter_count / 1e6:.2f} M parameters, {len(setup.images.names)} images, steps "
        f"{start} to {config.steps} of {config.batch} on {devices} device{'s' * (devices > 1)}, in {config.folder}"
    )


def _validate(run: _Run, step: int, validation: Validation, state: TrainState) -> None:
    """Report the validation losses of the weights and the moving averages, and whether the first average lags."""
    config = run.setup.config
    weights, averages = validation.loss(state.params), [validation.loss(ema) for ema in state.ema]
    row = {"step": step, "validation": averages[0], "validation_of_weights": weights}
    row |= {f"validation_of_ema_{decay:g}": loss for decay, loss in zip(config.ema[1:], averages[1:], strict=True)}
    run.metrics.write(row)
    levels = "  ".join(f"{level}: {loss:.4f}" for level, loss in averages[0].items())
    run.console.say(f"step {step}  validation loss of the denoiser by noise level  {levels}")
    behind = lag(averages[0], weights)
    if behind is not None:
        run.console.say(
            f"step {step}  warning: the moving average lags: its validation loss is {behind:.0%} above that of the "
            f"weights; it averages over about {1.0 / (1.0 - config.ema[0]):.0f} steps"
        )


def _sample(run: _Run, step: int, prompts: list[str] | None, state: TrainState) -> None:
    """Draw a sheet of samples of the weights and of each moving average."""
    setup = run.setup
    sheet = sample_sheet(setup.model, (state.params, *state.ema), prompts, setup.mesh)
    run.metrics.picture("samples", np.asarray(sheet), step)
    if jax.process_index() == 0:
        save_png(setup.config.folder / f"samples-{step:07d}.png", sheet)


def _save_snapshots(setup: Setup, state: TrainState) -> None:
    """Save the moving averages as snapshots: the first as "snapshot", the others as "snapshot-DECAY"."""
    for number, (decay, ema) in enumerate(zip(setup.config.ema, state.ema, strict=True)):
        params = fetch(ema, setup.mesh)
        if jax.process_index() == 0:
            name = f"snapshot-{decay:g}" if number else "snapshot"
            save(setup.config.folder / name, setup.model.with_params(params))


def _trace(setup: Setup, begins: bool) -> None:
    if begins:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # what the devices do, not every Python call
        jax.profiler.start_trace(str(setup.config.folder / "profile"), profiler_options=options)
    else:
        jax.profiler.stop_trace()


def _catch_signals() -> list[int]:
    """A list that receives the signals that ask the run to stop, so that the current step is finished first."""
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    return received
