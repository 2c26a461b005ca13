"""What becomes of finished steps: the losses, what was skipped, what could not be decoded, and whether to stop."""

import collections
import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from sdejax.runtime.distributed import time_limit
from sdejax.training.console import Console, Metrics
from sdejax.training.data.batches import Undecodable
from sdejax.training.flops import utilisation
from sdejax.training.setup import Setup


class Progress:
    """Looks at steps a little after they were given to the devices, which so never wait for this program.

    All processes see the same, and so decide the same. `stopping` is "" or why the run has to stop; `failed` says that
    it is for something that went wrong.
    """

    def __init__(self, setup: Setup, notes: dict[str, Any], console: Console, metrics: Metrics, timeout: int):
        self.config, self.console, self.metrics, self.timeout = setup.config, console, metrics, timeout
        self.undecodable = Undecodable(setup.images, notes.get("undecodable", ()))
        self.losses: list[float] = list(notes.get("losses", ()))  # since the last row of metrics
        self.skipped = notes.get("skipped", 0)
        self.flops: float | None = None
        self.stopping, self.failed = "", False
        self._waiting: collections.deque = collections.deque()
        self._since, self._steps = time.perf_counter(), 0

    def notes(self) -> dict[str, Any]:
        """What a run that goes on from here has to know."""
        return {"losses": self.losses, "skipped": self.skipped, "undecodable": self.undecodable.indexes}

    def started(self, step: int, metrics: dict[str, Any], rows: tuple[Any, Any]) -> None:
        """A step was given to the devices; `rows` are which images could not be decoded, and who wants to stop."""
        self._waiting.append((step, metrics, rows))

    def catch_up(self, leave: int = 0) -> None:
        """Look at the finished steps, all but the newest `leave`; at all of them once the run has to stop."""
        while len(self._waiting) > (0 if self.stopping else leave):
            step, metrics, (undecodable, stops) = self._waiting.popleft()
            with time_limit(self.timeout, f"step {step}"):
                self._finished(step, {name: float(value) for name, value in metrics.items()})
                self._undecodable(np.asarray(undecodable))
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
            row = {
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

    def _undecodable(self, indexes: np.ndarray) -> None:
        for name in self.undecodable.note(indexes):
            self.console.say(f"warning: {name} cannot be decoded; another image stands in for it")
        if self.undecodable.exceeds(self.config.undecodable) and not self.failed:
            self._fail(self.undecodable.message())

    def _fail(self, why: str) -> None:
        self.stopping, self.failed = why, True

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent in here is not a step's."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began
