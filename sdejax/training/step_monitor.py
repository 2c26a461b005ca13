"""Follows the finished steps of a run: losses, skipped steps, undecodable images, and whether the run must stop."""

import collections
import contextlib
import math
import time
from collections.abc import Iterator

import jax
import numpy as np

from sdejax.runtime.distributed import time_limit
from sdejax.training.checkpoints import Notes
from sdejax.training.console import Console, Metrics, StepRow
from sdejax.training.data.batches import Undecodable
from sdejax.training.flops import utilisation
from sdejax.training.setup import Setup


class StepMonitor:
    """Reads the results of steps some time after the steps are started, so that the devices never wait for it.

    All processes see the same results, so they decide the same. `stopping` is the reason why the run must stop, or "".
    `failed` says that the reason is a fault.
    """

    def __init__(self, setup: Setup, notes: Notes, console: Console, metrics: Metrics, timeout: int):
        self.config, self.console, self.metrics, self.timeout = setup.config, console, metrics, timeout
        self.undecodable = Undecodable(setup.images, notes.get("undecodable", ()))
        self.losses: list[float] = list(notes.get("losses", ()))  # since the last row of the metrics
        self.skipped = notes.get("skipped", 0)
        self.flops: float | None = None
        self.stopping, self.failed = "", False
        # Per started step: its number, its metrics, the undecodable images of its batch, and who asked to stop.
        self._waiting: collections.deque[tuple[int, dict[str, jax.Array], jax.Array, jax.Array]] = collections.deque()
        self._since, self._steps = time.perf_counter(), 0

    def notes(self) -> Notes:
        """The part of a checkpoint's notes that a resumed run needs to continue this object."""
        return {"losses": self.losses, "skipped": self.skipped, "undecodable": self.undecodable.indexes}

    def started(self, step: int, metrics: dict[str, jax.Array], rows: tuple[jax.Array, jax.Array]) -> None:
        """Add a step that was given to the devices.

        `rows` are two arrays over all processes: the undecodable images of the batch (-1: none), and for each device
        whether its process was asked to stop.
        """
        self._waiting.append((step, metrics, *rows))

    def catch_up(self, leave: int = 0) -> None:
        """Wait for the started steps, except the newest `leave`, and process them; all of them if the run must stop."""
        while len(self._waiting) > (0 if self.stopping else leave):
            step, metrics, undecodable, stops = self._waiting.popleft()
            with time_limit(self.timeout, f"step {step}"):
                self._finished(step, {name: float(value) for name, value in metrics.items()})
                self._note_undecodable(np.asarray(undecodable))
                if np.any(np.asarray(stops)) and not self.stopping:
                    self.stopping = "stopped"

    def _finished(self, step: int, metrics: dict[str, float]) -> None:
        self._steps += 1
        if metrics["skipped"] > self.skipped:
            self.skipped = int(metrics["skipped"])
            self.console.say(f"step {step}: its loss or gradient is not finite; skipped, {self.skipped} so far")
        else:
            self.losses.append(metrics["loss"])
        if metrics["skipped_in_a_row"] > self.config.skips_allowed and not self.failed:
            self._fail(f"{int(metrics['skipped_in_a_row'])} steps in a row were not finite, the last of them {step}")
        if step % self.config.log_every == 0 or step == self.config.steps:
            seconds = (time.perf_counter() - self._since) / self._steps
            row: StepRow = {
                "step": step,
                "loss": sum(self.losses) / len(self.losses) if self.losses else None,
                "gradient_norm": metrics["gradient_norm"] if math.isfinite(metrics["gradient_norm"]) else None,
                "images_per_second": self.config.batch / seconds,
                "peak_share": utilisation(self.flops, seconds),
                "skipped": self.skipped,
                "undecodable": self.undecodable.count,
            }
            self.losses, self._since, self._steps = [], time.perf_counter(), 0
            self.metrics.write(row)
            self.console.show(row)

    def _note_undecodable(self, indexes: np.ndarray) -> None:
        for name in self.undecodable.note(indexes):
            self.console.say(f"warning: {name} cannot be decoded; another image replaces it")
        if self.undecodable.exceeds(self.config.undecodable) and not self.failed:
            self._fail(self.undecodable.message())

    def _fail(self, why: str) -> None:
        self.stopping, self.failed = why, True

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time spent in the body as time of the steps."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began
