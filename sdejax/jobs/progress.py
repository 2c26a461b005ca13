"""How far a job is over all its processes: a bar on a terminal, plain lines elsewhere, JSON for machines."""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sdejax.runtime.batches import DeviceClock
from sdejax.runtime.errors import PeersGone
from sdejax.runtime.peers import Peers, Report

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar

_UPDATE, _LINE = 1.0, 10.0  # seconds between updates, and between plain lines


class OutputClosed(ValueError):
    """Nobody reads standard output any more."""


class JobProgress:
    """Counts the images of this process, and shows `total` over all processes in a thread, as a context manager.

    - `done`, `skipped`, `failed`: images made, found in the folder, and failed.
    - `stopping`: why this process has to stop before the work is done, or "". `stopping_elsewhere` is the same for the
      other processes to print.
    - `over`: this process has finished its work.
    """

    def __init__(self, total: int, devices: int, peers: Peers, as_json: bool):
        self.total, self.devices, self.peers, self.as_json = total, devices, peers, as_json
        self.clock = DeviceClock()
        self.done = self.skipped = self.failed = 0
        self.stopping, self.stopping_elsewhere, self.over = "", "", False
        self._started, self._ended = time.perf_counter(), 0.0
        self._last_line = self._started
        self._exit = threading.Event()
        self._lock = threading.RLock()  # a signal may call `stop` in a thread that holds it
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._bar: ProgressBar | None = None

    def __enter__(self) -> "JobProgress":
        if sys.stderr.isatty() and self.peers.index == 0 and not self.as_json:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(file=sys.stderr))
            self._bar.add_task("images", total=self.total, status="compiling")
            self._bar.start()
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, _: object) -> None:
        self._exit.set()
        self._thread.join()
        if error is not None and not isinstance(error, PeersGone):
            reason = str(error).partition(";")[0] or "stopped"
            self.stopping_elsewhere = f"process {self.peers.index} of {self.peers.count} has ended: {reason}"
            self.end()
            with contextlib.suppress(PeersGone):
                self.peers.send(self.report())
                self.peers.stop_others(self.stopping_elsewhere)
        if self._bar is not None:
            self._update()
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line on standard error that stays above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, soft_wrap=True, markup=False)
        else:
            print_error(text)

    def end(self) -> None:
        """Note that this process has finished its work. Its time ends here."""
        self._ended, self.over = time.perf_counter(), True

    def report(self) -> Report:
        """The report of this process. Its seconds count from the first program of its devices."""
        seconds = 0.0 if self.clock.since is None else (self._ended or time.perf_counter()) - self.clock.since
        return Report(
            self.done,
            self.skipped,
            self.failed,
            self.devices,
            self.clock.busy * self.devices,
            seconds * self.devices,
            self.over,
            self.stopping_elsewhere,
        )

    def stop(self, why: str, elsewhere: str = "") -> None:
        """Let this process stop in order before the work is done. The others print `elsewhere`, or else `why`."""
        with self._lock:  # two threads may find the same reason
            if self.stopping:
                return
            self.stopping, self.stopping_elsewhere = why, elsewhere or why
        self.say(f"error: {why}; the same command makes what is missing")

    def _run(self) -> None:
        while not self._exit.wait(_UPDATE):
            try:
                self._update()
            except OutputClosed as error:
                self.stop(str(error))
            except PeersGone as error:
                self.stop(str(error))
                return

    def _update(self) -> None:
        if not self.stopping and (why := self.peers.reason_to_stop()):
            self.stop(why)
        self.peers.send(self.report())
        if self.stopping:
            self.peers.stop_others(self.stopping_elsewhere)
        if self.peers.index == 0:
            self._show([self.report(), *self.peers.reports().values()])

    def _show(self, reports: Sequence[Report]) -> None:
        done = sum(report.done for report in reports)
        there = done + sum(report.skipped for report in reports)
        # The longest time that a process's devices have had programs: compiling says nothing about the time left.
        seconds = max(report.seconds / report.devices if report.devices else 0.0 for report in reports)
        rate = done / seconds if done and seconds else 0.0
        left = (self.total - there) / rate if rate else None
        if self._bar is not None:
            status = f"{rate:.3g} images/s" if done else "compiling"
            self._bar.update(self._bar.task_ids[0], completed=there, status=status)
        elif time.perf_counter() - self._last_line > _LINE:
            self._last_line = time.perf_counter()
            if self.as_json:
                print_json({"done": there, "total": self.total, "images_per_second": rate, "seconds_left": left})
            else:
                rest = "" if left is None else f", {rate:.3g} images/s, {_duration(left)} left"
                self.say(f"{there} of {self.total} images, {time.perf_counter() - self._started:.0f} s{rest}")


def summary(reports: Sequence[Report]) -> dict[str, Any]:
    """The images of all processes, images/s for each device, and the share of time that the devices had no work."""
    seconds = sum(report.seconds for report in reports)
    done = sum(report.done for report in reports)
    return {
        "images": done,
        "devices": sum(report.devices for report in reports),
        "failed": sum(report.failed for report in reports),
        "images_per_second_per_device": done / seconds if seconds else None,
        "share_outside_devices": 1.0 - sum(report.busy for report in reports) / seconds if seconds else None,
    }


def print_error(text: str) -> None:
    """Print a line on standard error."""
    print(text, file=sys.stderr, flush=True)


def print_json(row: dict[str, Any]) -> None:
    """Print a JSON line on standard output.

    **Raises:** `OutputClosed` if nobody reads it any more.
    """
    try:
        print(json.dumps(row), flush=True)
    except OSError as error:
        # Python would try to write the rest of the buffer at exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputClosed(f"standard output cannot be written ({error.strerror})") from None


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
