"""From seeds to files: what every command that makes images shares.

Each image is a PNG and a JSON that reproduces it, written whole or not at all, and a contact sheet shows them together.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sdejax.images import (
    Placement,
    contact_sheet,
    open_image,
    open_mask,
    save_png,
    to_array,
    to_image,
    write_atomically,
)


class Input:
    """A picture of any size and its mask, as the model takes them; and a result at the picture's size again."""

    def __init__(self, path: str, mask: str | None, shape: tuple[int, int, int]):
        opened = open_image(path, shape[2])
        self.placement = Placement.of(opened.size, shape)
        self.picture = to_array(opened).reshape(opened.height, opened.width, shape[2])
        self.image = self.placement.to_model(self.picture)[None]
        self.mask = self.full_mask = None
        if mask is not None:
            self.full_mask = open_mask(mask, opened.size)
            self.mask = np.clip(self.placement.to_model(self.full_mask), 0.0, 1.0)[None]
        self.shown = [to_image(self.picture)]

    def replaced(self, result: np.ndarray) -> Any:
        """The result in place of the picture, but for what the mask keeps."""
        return self._finish(self.placement.from_model(result))

    def changed(self, result: np.ndarray) -> Any:
        """The change that the edit made, added to the picture, whose own detail it keeps."""
        if self.placement.exact:
            return self._finish(result)
        return self._finish(self.picture + self.placement.from_model(result - self.image[0]))

    def _finish(self, picture: np.ndarray) -> Any:
        return to_image(picture if self.full_mask is None else np.where(self.full_mask > 0, picture, self.picture))


@dataclasses.dataclass(frozen=True)
class Task:
    """One image to make: the name of its files, its seed, how a result becomes a picture, and what its record adds."""

    name: str
    seed: int
    finish: Callable[[np.ndarray], Any]
    record: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Group:
    """Tasks that one program computes, any number of them at once: (n, *shape) for n tasks."""

    tasks: list[Task]
    compute: Callable[[list[Task]], Any]


def produce(command: Any, model: Any, groups: list[Group], shown: list[Any]) -> int:
    """Compute the tasks, batch by batch, and write their images, their JSON, and one contact sheet after `shown`."""
    run = command.run
    batch = min(run.batch, max(len(group.tasks) for group in groups))
    total = sum(len(group.tasks) for group in groups)
    out, pictures, done = Path(run.out), list(shown), 0
    started = time.perf_counter()
    for group in groups:
        for first in range(0, len(group.tasks), batch):
            tasks = group.tasks[first : first + batch]
            with _writable(out):
                # The last batch is filled up, so that one program serves them all.
                results = np.asarray(group.compute(tasks + [tasks[-1]] * (batch - len(tasks))))[: len(tasks)]
                images = [task.finish(result) for task, result in zip(tasks, results, strict=True)]
            for task, image in zip(tasks, images, strict=True):
                file = out / f"{task.name}.png"
                save_png(file, image)
                record = _provenance(command, model, task)
                write_atomically(file.with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())
                if run.json:
                    print(json.dumps({"seed": task.seed, "file": str(file)}), flush=True)
            pictures += images
            done += len(tasks)
            _tell(f"{done} of {total} images, {time.perf_counter() - started:.1f} s")
    sheet = out / "sheet.png"
    save_png(sheet, contact_sheet(pictures[:256]))
    print(json.dumps({"sheet": str(sheet)}) if run.json else f"{total} images in {out}, together in {sheet}")
    return 0


@contextlib.contextmanager
def _writable(out: Path):
    """Make the folder before the work, and take it away again if nothing came of it.

    **Raises:** `ValueError` where it cannot be written.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ValueError(f"--out={str(out)!r}: cannot be written ({error.strerror})") from None
    try:
        yield
    except BaseException:
        for folder in made:
            folder.rmdir()
        raise


def _provenance(command: Any, model: Any, task: Task) -> dict[str, Any]:
    """What reproduces one image."""
    return {
        "command": type(command).__name__.lower(),
        **dataclasses.asdict(command),
        **task.record,
        "seed": task.seed,
        "snapshot_hash": model.source,
        "versions": {name: importlib.metadata.version(name) for name in ("sdejax", "jax", "jaxlib", "diffrax", "flax")},
    }


def _tell(text: str) -> None:
    """Progress: one line rewritten on a terminal, plain lines elsewhere."""
    terminal = sys.stderr.isatty()
    print(f"\r{text}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)
