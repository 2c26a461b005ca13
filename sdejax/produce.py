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
from sdejax.sample import keys as keys_of


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


def produce(
    command: Any,
    model: Any,
    seeds: list[int],
    compute: Callable[[Any], Any],
    finish: Callable[[np.ndarray], Any],
    shown: list[Any],
) -> int:
    """Compute an image per seed, batch by batch, and write them, their JSON, and one contact sheet."""

    run = command.run
    batch = min(run.batch, len(seeds))
    chunks = [seeds[i : i + batch] for i in range(0, len(seeds), batch)]
    out, pictures = Path(run.out), list(shown)
    started = time.perf_counter()
    for done, chunk in enumerate(chunks):
        # The last batch is filled up, so that one program serves them all.
        keys = keys_of(chunk + [chunk[-1]] * (batch - len(chunk)))
        with _writable(out):
            results = np.asarray(compute(keys))[: len(chunk)]
            images = [finish(result) for result in results]
        for seed, image in zip(chunk, images, strict=True):
            file = out / f"{seed:06d}.png"
            save_png(file, image)
            record = _provenance(command, model, seed)
            write_atomically(file.with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())
            if run.json:
                print(json.dumps({"seed": seed, "file": str(file)}), flush=True)
        pictures += images
        _tell(f"{done * batch + len(chunk)} of {len(seeds)} images, {time.perf_counter() - started:.1f} s")
    sheet = out / "sheet.png"
    save_png(sheet, contact_sheet(pictures[:256]))
    print(json.dumps({"sheet": str(sheet)}) if run.json else f"{len(seeds)} images in {out}, together in {sheet}")
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


def _provenance(command: Any, model: Any, seed: int) -> dict[str, Any]:
    """What reproduces one image."""
    return {
        "command": type(command).__name__.lower(),
        **dataclasses.asdict(command),
        "seed": seed,
        "snapshot_hash": model.source,
        "versions": {name: importlib.metadata.version(name) for name in ("sdejax", "jax", "jaxlib", "diffrax", "flax")},
    }


def _tell(text: str) -> None:
    """Progress: one line rewritten on a terminal, plain lines elsewhere."""
    terminal = sys.stderr.isatty()
    print(f"\r{text}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)
