"""What a run shows and records: a status line on a terminal or plain lines elsewhere, and files of metrics."""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Required, TypedDict

import numpy as np
from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sdejax.runtime.files import write_atomically
from sdejax.training.config import Config


class StepRow(TypedDict):
    """The metrics of a step. `loss` is the mean since the last row; None stands for what is unknown or not finite."""

    step: int
    loss: float | None
    gradient_norm: float | None
    images_per_second: float
    peak_share: float | None
    skipped: int
    undecodable: int


class MetricsRow(TypedDict, total=False):
    """A row of metrics.jsonl: that of a step, or a validation, whose loss is by noise level."""

    step: Required[int]
    loss: float | None
    images_per_second: float
    validation: dict[str, float]


class Console:
    """The status line and the messages above it. If `quiet`, as on all processes but the first, it prints nothing."""

    def __init__(self, config: Config, start: int, quiet: bool):
        self.rich = RichConsole(file=sys.stderr, quiet=quiet)
        self.steps, self.start, self.started = config.steps, start, time.perf_counter()
        self.progress = Progress(
            TextColumn(config.name),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=self.rich,
            disable=quiet or not self.rich.is_terminal,
        )
        self.task = self.progress.add_task("train", total=config.steps, completed=start, status="compiling")

    def __enter__(self) -> "Console":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        """Print a message that stays."""
        self.rich.print(text, highlight=False, soft_wrap=True, markup=False)

    def show(self, row: StepRow) -> None:
        """Show the status of a step: loss, images/s, share of the devices' peak if it is known, and time left."""
        loss = "none" if row["loss"] is None else f"{row['loss']:.4f}"
        status = f"loss {loss}  {row['images_per_second']:.1f} images/s"
        if row["peak_share"] is not None:
            status += f"  {row['peak_share']:.0%} of peak"
        self.progress.update(self.task, completed=row["step"], status=status)
        if not self.rich.is_terminal:
            done = max(1, row["step"] - self.start)
            left = (time.perf_counter() - self.started) / done * (self.steps - row["step"])
            self.say(f"step {row['step']} of {self.steps}  {status}  {_duration(left)} left")


def _duration(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


class Metrics:
    """The files metrics.jsonl and TensorBoard's event files, which the first process writes.

    A run that resumes at step `start` removes the rows of later steps, because it will write them again.
    """

    def __init__(self, folder: Path, start: int, quiet: bool):
        self.path, self.events = folder / "metrics.jsonl", None
        if quiet:
            return
        from tensorboardX import SummaryWriter

        self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1 if start else None)
        if self.path.is_file():
            kept = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _step(line) <= start]
            write_atomically(self.path, "".join(f"{line}\n" for line in kept).encode())

    def write(self, row: Mapping[str, object]) -> None:
        """Write a row: "step", and by name a number, None, or a dict of numbers."""
        if self.events is None:
            return
        step = row["step"]
        assert isinstance(step, int)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in row.items():
            numbers = value if isinstance(value, dict) else {"": value}
            for key, number in numbers.items():
                if name != "step" and number is not None:
                    self.events.add_scalar(f"{name}/{key}" if key else name, number, step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Add a picture (h, w, c), uint8, to the event files."""
        if self.events is not None:
            self.events.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Write everything to the disk."""
        if self.events is not None:
            self.events.close()


def _step(line: str) -> float:
    """The step of a row; infinity for the incomplete last line of a run that was killed."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return math.inf
