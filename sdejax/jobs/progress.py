"""How far a run is, over all its processes: a bar on a terminal, plain lines elsewhere, JSON for machines."""

import contextlib
import json
import os
import sys
import threading
import time
from typing import Any

from sdejax.runtime.aborts import PeersGone
from sdejax.runtime.batches import DeviceClock
from sdejax.runtime.peers import Peers

_LOOK, _SAY = 1.0, 10.0  # seconds between looks, and between plain lines


class OutputClosed(ValueError):
    """Nobody reads standard output any more."""


class Progress:
    """What is done, of `total` over all processes, told by a thread of its own while the body of a `with` works.

    `stopping` is "" or why this process has to stop in order: another one is lost, or somebody asked; `elsewhere` is
    how that reads in another process. `over` says that its work is done.
    """

    def __init__(self, total: int, devices: int, peers: Peers, as_json: bool):
        self.total, self.devices, self.peers, self.as_json = total, devices, peers, as_json
        self.clock = DeviceClock()
        self.done = self.skipped = self.failed = 0
        self.stopping, self.elsewhere, self.over = "", "", False
        self.started, self._ended = time.perf_counter(), 0.0
        self._said = self.started
        self._end = threading.Event()
        self._first = threading.RLock()  # a signal's handler may come while its own thread holds it
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty() and self.peers.index == 0 and not self.as_json:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"), TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(file=sys.stderr))
            self._bar.add_task("images", total=self.total, status="compiling")
            self._bar.start()
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, _: object) -> None:
        self._end.set()
        self._thread.join()
        if error is not None and not isinstance(error, PeersGone):
            said = str(error).partition(";")[0] or "stopped"
            self.elsewhere = f"process {self.peers.index} of {self.peers.count} has ended: {said}"
            self.end()
            with contextlib.suppress(PeersGone):
                self.peers.tell(self.report())
                self.peers.end(self.elsewhere)
        if self._bar is not None:
            self._look()
            self._bar.stop()

    def say(self, text: str) -> None:
        """A line that stays, on standard error."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, soft_wrap=True, markup=False)
        else:
            tell(text)

    def end(self) -> None:
        """This process's work is done; its time ends here."""
        self._ended, self.over = time.perf_counter(), True

    def report(self) -> dict[str, Any]:
        """What this process says of itself. Seconds are those since its devices got their first program."""
        seconds = 0.0 if self.clock.since is None else (self._ended or time.perf_counter()) - self.clock.since
        return {
            "done": self.done,
            "skipped": self.skipped,
            "failed": self.failed,
            "devices": self.devices,
            "busy": self.clock.busy * self.devices,
            "seconds": seconds * self.devices,
            "over": self.over,
            "stopped": self.elsewhere,
        }

    def stop(self, why: str, elsewhere: str = "") -> None:
        """Say why this process has to end before the work does, and how that reads `elsewhere`; it ends in order."""
        with self._first:  # two threads may find the same
            if self.stopping:
                return
            self.stopping, self.elsewhere = why, elsewhere or why
        self.say(f"error: {why}; the same command makes what is missing")

    def _run(self) -> None:
        while not self._end.wait(_LOOK):
            try:
                self._look()
            except OutputClosed as error:
                self.stop(str(error))
            except PeersGone as error:
                self.stop(str(error))
                return

    def _look(self) -> None:
        if not self.stopping and (why := self.peers.trouble()):
            self.stop(why)
        self.peers.tell(self.report())
        if self.stopping:
            self.peers.end(self.elsewhere)
        if self.peers.index == 0:
            self._show([self.report(), *self.peers.reports().values()])

    def _show(self, reports: list[dict[str, Any]]) -> None:
        done = sum(report["done"] for report in reports)
        there = done + sum(report["skipped"] for report in reports)
        # As long as the devices of any process have had a program: compiling says nothing of what is left.
        seconds = max(report["seconds"] / report["devices"] if report["devices"] else 0.0 for report in reports)
        rate = done / seconds if done and seconds else 0.0
        left = (self.total - there) / rate if rate else None
        if self._bar is not None:
            status = f"{rate:.3g} images/s" if done else "compiling"
            self._bar.update(self._bar.task_ids[0], completed=there, status=status)
        elif time.perf_counter() - self._said > _SAY:
            self._said = time.perf_counter()
            if self.as_json:
                tell_machines({"done": there, "total": self.total, "images_per_second": rate, "seconds_left": left})
            else:
                rest = "" if left is None else f", {rate:.3g} images/s, {_duration(left)} left"
                self.say(f"{there} of {self.total} images, {time.perf_counter() - self.started:.0f} s{rest}")


def summary(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the reports of all processes: images, images/s for each device, and the share of time outside the devices."""
    seconds = sum(report["seconds"] for report in reports)
    done = sum(report["done"] for report in reports)
    return {
        "images": done,
        "devices": sum(report["devices"] for report in reports),
        "failed": sum(report["failed"] for report in reports),
        "images_per_second_per_device": done / seconds if seconds else None,
        "share_outside_devices": 1.0 - sum(report["busy"] for report in reports) / seconds if seconds else None,
    }


def tell(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr, flush=True)


def tell_machines(row: dict[str, Any]) -> None:
    """A JSON line on standard output.

    **Raises:** `OutputClosed` where nobody reads it any more.
    """
    try:
        print(json.dumps(row), flush=True)
    except OSError as error:
        # What is left in its buffer would be written, and fail again, as Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputClosed(f"standard output cannot be written ({error.strerror})") from None


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
