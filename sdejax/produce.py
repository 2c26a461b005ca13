"""From seeds to files: what every command that makes images shares.

Each image is a PNG and a JSON that reproduces it, written whole or not at all, and a contact sheet shows them together.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdejax.images import contact_sheet, png_bytes, save_png, write_atomically

_CELLS = 256  # on a sheet at most
_CELL = 512  # pixels at most


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


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The contact sheet's cells in reading order, of which the first 256 are shown.

    A cell is an image, the name of a task, or a file that was written earlier; a task that made no image has no cell.
    `columns` is 0 for a number that fits.
    """

    cells: Sequence[Image.Image | str | Path]
    columns: int = 0


def produce(
    command: Any,
    model: Any,
    groups: Iterable[Group],
    shown: list[Any],
    *,
    batch: int | None = None,
    total: int | None = None,
    sheet: Sheet | None = None,
    failed: Callable[[str, ValueError], None] | None = None,
) -> int:
    """Compute the tasks, batch by batch, and write their images, their JSON, and one contact sheet.

    **Arguments:**

    - `groups`: drawn one by one, so that an iterator may read what a group needs when its turn comes; it then says
      itself how many tasks there are (`total`) and how many are computed at once (`batch`).
    - `shown`: images that stand before those of the tasks on the sheet, unless `sheet` says what is on it.
    - `failed`: told of a task whose image cannot be made, and why; without it that is raised.
    """
    run = command.run
    if batch is None or total is None:
        groups = list(groups)
        names = [task.name for group in groups for task in group.tasks]
        sheet = sheet or Sheet([*shown, *names])
        total, batch = len(names), min(int(run.batch), max(len(group.tasks) for group in groups))
    sheet = sheet or Sheet(shown)
    wanted = {cell for cell in sheet.cells[:_CELLS] if isinstance(cell, str)}
    out, pictures, done = Path(run.out), {}, 0
    started = time.perf_counter()
    for group in groups:
        for tasks in _batched(group.tasks, batch):
            with _writable(out):
                # The last batch is filled up, so that one program serves them all.
                results = np.asarray(group.compute(tasks + [tasks[-1]] * (batch - len(tasks))))[: len(tasks)]
                images = [_finish(task, result, failed) for task, result in zip(tasks, results, strict=True)]
            for task, image in zip(tasks, images, strict=True):
                if image is None:
                    continue
                file = out / f"{task.name}.png"
                data = png_bytes(image)
                write_atomically(file, data)
                record = {**provenance(command, model, task), "png_sha256": hashlib.sha256(data).hexdigest()}
                write_atomically(record_of(file), (json.dumps(record, indent=1) + "\n").encode())
                if run.json:
                    print(json.dumps({"seed": task.seed, "file": str(file)}), flush=True)
                if task.name in wanted:
                    pictures[task.name] = _reduced(image)
                done += 1
            tell(f"{done} of {total} images, {time.perf_counter() - started:.1f} s")
    if sys.stderr.isatty():
        print(file=sys.stderr)
    cells = [cell for cell in (_cell(cell, pictures) for cell in sheet.cells[:_CELLS]) if cell is not None]
    if not cells:
        return 0
    file = out / "sheet.png"
    save_png(file, contact_sheet(cells, sheet.columns))
    print(
        json.dumps({"sheet": str(file)}) if run.json else f"{done} images written to {out}, together in {file}",
        flush=True,
    )
    return 0


def _batched(tasks: list[Task], batch: int) -> Iterator[list[Task]]:
    for first in range(0, len(tasks), batch):
        yield tasks[first : first + batch]


def _finish(task: Task, result: np.ndarray, failed: Callable[[str, ValueError], None] | None) -> Any:
    try:
        return task.finish(result)
    except ValueError as error:
        if failed is None:
            raise
        failed(task.name, error)
        return None


def _cell(cell: Image.Image | str | Path, pictures: dict[str, Image.Image]) -> Image.Image | None:
    if isinstance(cell, str):
        return pictures.get(cell)
    if isinstance(cell, Path):
        with Image.open(cell) as image:
            return _reduced(image)
    return _reduced(cell)


def _reduced(image: Image.Image) -> Image.Image:
    """A copy for the sheet, which is for looking at."""
    copy = image.copy()
    copy.thumbnail((_CELL, _CELL))
    return copy


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


def record_of(picture: Path) -> Path:
    """The JSON file beside a PNG."""
    return picture.with_suffix(".json")


def provenance(command: Any, model: Any, task: Task) -> dict[str, Any]:
    """What reproduces one image."""
    return {
        "command": type(command).__name__.lower(),
        **dataclasses.asdict(command),
        **task.record,
        "seed": task.seed,
        "snapshot_hash": model.source,
        "versions": {name: importlib.metadata.version(name) for name in ("sdejax", "jax", "jaxlib", "diffrax", "flax")},
    }


def tell(text: str) -> None:
    """Progress: one line rewritten on a terminal, plain lines elsewhere."""
    terminal = sys.stderr.isatty()
    print(f"\r\x1b[K{text}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)
