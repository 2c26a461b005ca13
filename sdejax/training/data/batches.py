"""Encoded images to batches, in an order that depends on the seed alone: a batch is its position.

The images of all epochs, one after the other, are one endless list: each epoch is a permutation of its own, and how the
image at a position is cropped and mirrored depends on (seed, position). A batch is the next `batch` positions, of which
each process takes its rows; so neither the number of processes nor that of threads or workers changes what is drawn.
"""

import dataclasses
import functools
import io
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import grain
import numpy as np
from absl import flags
from PIL import Image, ImageOps

from sdejax.media.images import fit, flatten, to_array
from sdejax.training.data.sources import Images as Images

Crop = Literal["center", "random", "stretch"]
_CACHE_BYTES = 512 * 2**20  # a decoded set up to this size is kept in memory
_LOOK = 1000  # how far to look for a stand-in
_LISTED = 100  # how many names a message lists


def decode(
    data: bytes, shape: tuple[int, int, int], crop: Crop = "center", at: tuple[float, float] = (0.5, 0.5)
) -> np.ndarray:
    """An encoded image as uint8 of `shape` (h, w, c): upright, on white, resized with Lanczos.

    `crop` says how another ratio of sides becomes that of `shape`: "center" cuts off both ends alike, "random" at the
    share `at` (across, down) in [0, 1) of the whole pixels there are to choose from, "stretch" cuts off nothing.

    **Raises:** `ValueError` where the bytes are not an image that Pillow can read to its end.
    """
    height, width, channels = shape
    try:
        with Image.open(io.BytesIO(data)) as image:
            # A JPEG is shrunk to a half or a quarter as it is decoded, in a fraction of the time, but not below three
            # times the size, so that Lanczos has its say. (A column of less than a pixel shifts it by 1/8 at most.)
            side = 3 * max(height, width)
            image.draft(None, (side, side))
            image.load()
            image = flatten(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB", 255)
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        raise ValueError(f"an image of {len(data)} bytes cannot be decoded ({error})") from None
    if crop == "stretch" and image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    elif crop == "random" and image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS, box=_window(image.size, width, height, at))
    else:
        image = fit(image, width, height)
    return np.asarray(image).reshape(shape)


def _window(
    size: tuple[int, int], width: int, height: int, at: tuple[float, float]
) -> tuple[float, float, float, float]:
    """The largest box of the ratio width : height in `size`, at whole pixels: left, top, right, bottom."""
    spare_across, spare_down = size[0] * height - size[1] * width, size[1] * width - size[0] * height
    if spare_across >= 0:
        left = int(at[0] * (spare_across // height + 1))
        return left, 0, min(left + size[1] * width / height, size[0]), size[1]
    top = int(at[1] * (spare_down // width + 1))
    return 0, top, size[0], min(top + size[0] * height / width, size[1])


def normalise(images: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [-1, 1]."""
    return to_array(images)


def load(images: Images, indices: Iterable[int], shape: tuple[int, int, int], crop: Crop = "center") -> np.ndarray:
    """The images of these indices, uint8 (n, *shape), never cropped at random; others stand in for undecodable ones."""
    decoded = [_find(images, int(index), shape, crop, (0.5, 0.5))[0] for index in indices]
    return np.stack(decoded) if decoded else np.zeros((0, *shape), np.uint8)


def _find(
    images: Images, index: int, shape: tuple[int, int, int], crop: Crop, at: tuple[float, float]
) -> tuple[np.ndarray, int]:
    """The image of that index, or of the next that can be decoded, and whose it is."""
    count = len(images.names)
    looks = min(count, _LOOK)
    for found in range(index, index + looks):
        try:
            return decode(images.read(found % count), shape, crop, at), found % count
        except (OSError, ValueError):
            continue
    raise ValueError(f"data: {looks} images in a row cannot be decoded, from {images.names[index]!r} on")


@functools.lru_cache(maxsize=2)
def _epoch(number: int, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, number]).permutation(count)


def _index(position: int, count: int, seed: int) -> int:
    """Whose turn it is. (grain's own shuffle takes milliseconds an image in a set of a dozen.)"""
    epoch, place = divmod(position, count)
    return int(_epoch(epoch, count, seed)[place])


@dataclasses.dataclass(frozen=True)
class _Draw(grain.transforms.RandomMap):
    """An index to its image and tokens. `kept` are decoded images of a small set, by index, with whose they are."""

    images: Images
    shape: tuple[int, int, int]
    tokens: np.ndarray | None
    flip: bool
    crop: Crop
    kept: dict[int, tuple[np.ndarray, int]] | None

    def random_map(self, element: int, rng: np.random.Generator) -> Any:
        across, down, mirror = rng.random(3)  # all are drawn whatever is used: no choice changes another
        known = self.kept.get(element) if self.kept is not None else None
        image, found = known or _find(self.images, element, self.shape, self.crop, (across, down))
        if self.kept is not None and known is None:
            self.kept[element] = image, found
        if self.flip and mirror < 0.5:
            image = image[:, ::-1]
        record = {"image": image, "undecodable": np.int64(-1 if found == element else element)}
        if self.tokens is not None:
            record["tokens"] = self.tokens[found]
        return record


@dataclasses.dataclass(frozen=True)
class _Rows(grain.transforms.DatasetSelectionMap):
    """From the number of a row in one process's batches to its position among the rows of all processes."""

    start: int
    batch: int
    process: int
    processes: int

    def __len__(self) -> int:
        return (sys.maxsize - self.start) // self.batch * (self.batch // self.processes)

    def __getitem__(self, index: int) -> tuple[int, int]:
        rows = self.batch // self.processes
        number, row = divmod(index, rows)
        return 0, self.start + number * self.batch + self.process * rows + row


def batches(
    images: Images,
    shape: tuple[int, int, int],
    tokens: np.ndarray | None,
    *,
    batch: int,
    seed: int,
    flip: bool = False,
    crop: Crop = "center",
    start: int = 0,
    process: int = 0,
    processes: int = 1,
    threads: int = 4,
    workers: int = 0,
) -> grain.DatasetIterator[dict[str, np.ndarray]]:
    """Endless batches of this process, from position `start` on, which counts the images of all processes.

    `batch` is the number of images over all processes. Of each, this one gets the rows from process * n to
    (process + 1) * n, n = batch / processes, as a dict: `image` uint8 (n, h, w, c); `tokens` (n, words) if any; and
    `undecodable` int64 (n,), -1, or the index of an image that could not be decoded, for which the next in the listing
    that can be stands in, with its own tokens.

    `threads` batches are made at a time, and as many kept ready, in each of `workers` processes, or in this one
    without any. `close()` of what is returned ends them.

    **Raises:** `ValueError` where `processes` does not divide `batch`; while drawing, where 1000 images in a row
    cannot be decoded.
    """
    if batch % processes or not 0 <= process < processes:
        raise ValueError(f"batch={batch}: must be a multiple of the number of processes, {processes}")
    small = crop != "random" and len(images.names) * int(np.prod(shape)) * max(1, workers) < _CACHE_BYTES
    draw = _Draw(images, shape, tokens, flip, crop, {} if small else None)
    index = functools.partial(_index, count=len(images.names), seed=seed)
    positions = grain.MapDataset.range(sys.maxsize).seed(seed).map(index).random_map(draw)
    rows = grain.MapDataset.select_from_datasets([positions], _Rows(start, batch, process, processes))
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    stream = rows.batch(batch // processes, drop_remainder=True).to_iter_dataset(reading)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain asks for them; this program has none
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), _start_worker)
    return iter(stream)


def _start_worker(number: int, count: int) -> None:
    """A worker outlives the signals that ask a run to stop, for the run finishes its steps; but not the run itself."""
    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class Undecodable:
    """Which images could not be decoded, by name; `indexes` are those of an earlier part of the run."""

    def __init__(self, images: Images, indexes: Iterable[int] = ()):
        self._images = images
        self._seen = {int(index) for index in indexes}

    def note(self, undecodable: np.ndarray) -> list[str]:
        """The names of those that are new among the `undecodable` of a batch, where -1 is none."""
        new = sorted({int(index) for index in undecodable.ravel() if index >= 0} - self._seen)
        self._seen.update(new)
        return [self._images.names[index] for index in new]

    @property
    def indexes(self) -> list[int]:
        """Their indexes, sorted."""
        return sorted(self._seen)

    @property
    def names(self) -> Sequence[str]:
        """Their names, sorted."""
        return sorted(self._images.names[index] for index in self._seen)

    @property
    def count(self) -> int:
        """How many there are; one that is drawn again does not count again."""
        return len(self._seen)

    def over(self, share: float) -> bool:
        """Whether they are more than this share of all images."""
        return self.count > share * len(self._images.names)

    def message(self) -> str:
        """A sentence with their number, and a line for each."""
        number = len(self._images.names)
        rest = [f"and {self.count - _LISTED} more"] if self.count > _LISTED else []
        head = f"{self.count} of {number} images ({self.count / number:.2%}) cannot be decoded:"
        return "\n  ".join([head, *self.names[:_LISTED], *rest])
