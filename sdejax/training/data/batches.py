"""Batches of decoded images, in an order that depends only on the seed.

The epochs, one after the other, form one endless list of images. Each epoch is a permutation of the set. The crop and
the mirroring of the image at a position depend on (seed, position). A batch is the next `batch` positions, and each
process takes its rows of it. So the numbers of processes, threads and workers do not change the batches.
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
from typing import Literal

import grain
import numpy as np
from absl import flags
from PIL import Image, ImageOps

from sdejax.media.images import fit, flatten, to_array
from sdejax.training.data.sources import Images as Images

Crop = Literal["center", "random", "stretch"]
_CACHE_BYTES = 512 * 2**20  # if the decoded set is at most this large, it is kept in memory
_MAX_ATTEMPTS = 1000  # how many images in a row are tried if they cannot be decoded
_MAX_LISTED = 100  # how many names a message lists


def decode(
    data: bytes, shape: tuple[int, int, int], crop: Crop = "center", at: tuple[float, float] = (0.5, 0.5)
) -> np.ndarray:
    """Decode an image to uint8 of `shape` (h, w, c): turned upright, on white, resized with Lanczos.

    **Arguments:**

    - `data`: the encoded file.
    - `shape`: the shape (h, w, c) of the result.
    - `crop`: how the ratio of the sides becomes that of `shape`. "center" cuts off the same from both ends, "random"
      takes the window at `at`, and "stretch" cuts off nothing.
    - `at`: the place (across, down) of the random window, in [0, 1). 0 is the first of the windows that begin at a
      whole pixel, and a value close to 1 is the last.

    **Raises:** `ValueError` if the bytes are not an image that Pillow can read to its end.
    """
    height, width, channels = shape
    try:
        with Image.open(io.BytesIO(data)) as image:
            # A JPEG can be reduced to a half or a quarter while it is decoded, which takes a fraction of the time. It
            # stays at least three times as large as the result, so that the reduction by Lanczos decides the quality.
            # (If the size is no multiple of the factor, the image is shifted by at most 1/8 of a pixel.)
            side = 3 * max(height, width)
            image.draft(None, (side, side))
            image.load()
            image = flatten(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB", 255)
    except Exception as error:  # Pillow raises almost any kind of exception for damaged files
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
    """The largest box of the ratio width : height in `size`, which begins at a whole pixel.

    **Returns:** (left, top, right, bottom).
    """
    spare_across, spare_down = size[0] * height - size[1] * width, size[1] * width - size[0] * height
    if spare_across >= 0:
        left = int(at[0] * (spare_across // height + 1))
        return left, 0, min(left + size[1] * width / height, size[0]), size[1]
    top = int(at[1] * (spare_down // width + 1))
    return 0, top, size[0], min(top + size[0] * height / width, size[1])


def normalise(images: np.ndarray) -> np.ndarray:
    """Convert uint8 to float32 in [-1, 1]."""
    return to_array(images)


def load(images: Images, indices: Iterable[int], shape: tuple[int, int, int], crop: Crop = "center") -> np.ndarray:
    """Load the images of the given indices as uint8 (n, *shape); "random" crops are taken from the centre.

    If an image cannot be decoded, the next one that can replaces it.

    **Raises:** `ValueError` if 1000 images in a row cannot be decoded.
    """
    decoded = [_decode_from(images, int(index), shape, crop, (0.5, 0.5))[0] for index in indices]
    return np.stack(decoded) if decoded else np.zeros((0, *shape), np.uint8)


def _decode_from(
    images: Images, index: int, shape: tuple[int, int, int], crop: Crop, at: tuple[float, float]
) -> tuple[np.ndarray, int]:
    """Decode the first image from `index` on that can be decoded: the image, and its index."""
    count = len(images.names)
    attempts = min(count, _MAX_ATTEMPTS)
    for found in range(index, index + attempts):
        try:
            return decode(images.read(found % count), shape, crop, at), found % count
        except (OSError, ValueError):
            continue
    raise ValueError(f"data: {attempts} images in a row cannot be decoded, from {images.names[index]!r} on")


@functools.lru_cache(maxsize=2)
def _epoch(number: int, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, number]).permutation(count)


def _index_at(position: int, count: int, seed: int) -> int:
    """The index of the image at a position. (grain's own shuffle takes milliseconds per image for a set of 12.)"""
    epoch, place = divmod(position, count)
    return int(_epoch(epoch, count, seed)[place])


@dataclasses.dataclass(frozen=True)
class _Draw(grain.transforms.RandomMap):
    """Turn an index into a record with the image and its tokens.

    `decoded` keeps the decoded images of a small set by index, each with the index of the image that was decoded.
    """

    images: Images
    shape: tuple[int, int, int]
    tokens: np.ndarray | None
    flip: bool
    crop: Crop
    decoded: dict[int, tuple[np.ndarray, int]] | None

    def random_map(  # pyright: ignore[reportIncompatibleMethodOverride]  # grain's own has no return type
        self, element: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray | np.int64]:
        across, down, mirror = rng.random(3)  # always three, so that no option changes the numbers of another
        known = self.decoded.get(element) if self.decoded is not None else None
        image, found = known or _decode_from(self.images, element, self.shape, self.crop, (across, down))
        if self.decoded is not None and known is None:
            self.decoded[element] = image, found
        if self.flip and mirror < 0.5:
            image = image[:, ::-1]
        undecodable = np.int64(-1 if found == element else element)
        record: dict[str, np.ndarray | np.int64] = {"image": image, "undecodable": undecodable}
        if self.tokens is not None:
            record["tokens"] = self.tokens[found]
        return record


@dataclasses.dataclass(frozen=True)
class _Rows(grain.transforms.DatasetSelectionMap):
    """Maps the number of a row in the batches of one process to its position among the rows of all processes."""

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
    """Draw endless batches for one process.

    **Arguments:**

    - `images`: the set.
    - `shape`: the shape (h, w, c) of a decoded image.
    - `tokens`: an array with a row per image, or None.
    - `batch`: the number of images in a batch over all processes.
    - `seed`: decides the order, the crops and the mirroring.
    - `flip`: whether half of the images are mirrored.
    - `crop`: as in `decode`.
    - `start`: the first position, which counts the images of all processes.
    - `process`, `processes`: the number of this process, and how many there are. With n = batch / processes, this
      process gets the rows from process * n to (process + 1) * n of each batch.
    - `threads`: how many batches are made at the same time; as many are kept ready.
    - `workers`: how many processes have these threads; 0 keeps the threads in this process.

    **Returns:** an iterator over dicts. `image` is uint8 (n, h, w, c), and `tokens` has the rows of the images, if any
    were given. `undecodable` is int64 (n,): -1, or the index of an image that could not be decoded. In that case the
    next image that can be decoded replaces it, with its own tokens. `close()` ends the threads and workers.

    **Raises:** `ValueError` if `processes` does not divide `batch`; and from the iterator, if 1000 images in a row
    cannot be decoded.
    """
    if batch % processes or not 0 <= process < processes:
        raise ValueError(f"batch={batch}: must be a multiple of the number of processes, {processes}")
    small = crop != "random" and len(images.names) * int(np.prod(shape)) * max(1, workers) < _CACHE_BYTES
    draw = _Draw(images, shape, tokens, flip, crop, {} if small else None)
    index = functools.partial(_index_at, count=len(images.names), seed=seed)
    positions = grain.MapDataset.range(sys.maxsize).seed(seed).map(index).random_map(draw)
    rows = grain.MapDataset.select_from_datasets([positions], _Rows(start, batch, process, processes))
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    stream = rows.batch(batch // processes, drop_remainder=True).to_iter_dataset(reading)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain reads absl's flags, but this program has none
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), _start_worker)
    return iter(stream)


def _start_worker(_index: int, _count: int) -> None:
    """Let a worker ignore the signals that ask a run to stop, and end it when the run ends.

    The run still needs its workers after such a signal, because it finishes the steps under way.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class Undecodable:
    """The images that could not be decoded. `indexes` are those that an earlier part of the run found."""

    def __init__(self, images: Images, indexes: Iterable[int] = ()):
        self._images = images
        self._seen = {int(index) for index in indexes}

    def note(self, undecodable: np.ndarray) -> list[str]:
        """Add the `undecodable` of a batch, in which -1 means none, and return the names of the new ones."""
        new = sorted({int(index) for index in undecodable.ravel() if index >= 0} - self._seen)
        self._seen.update(new)
        return [self._images.names[index] for index in new]

    @property
    def indexes(self) -> list[int]:
        """The indexes of these images, sorted."""
        return sorted(self._seen)

    @property
    def names(self) -> Sequence[str]:
        """The names of these images, sorted."""
        return sorted(self._images.names[index] for index in self._seen)

    @property
    def count(self) -> int:
        """The number of these images; an image that is drawn again does not count again."""
        return len(self._seen)

    def exceeds(self, share: float) -> bool:
        """Whether they are more than `share` of all images."""
        return self.count > share * len(self._images.names)

    def message(self) -> str:
        """A sentence with their number, and a line for each of the first 100."""
        number = len(self._images.names)
        rest = [f"and {self.count - _MAX_LISTED} more"] if self.count > _MAX_LISTED else []
        head = f"{self.count} of {number} images ({self.count / number:.2%}) cannot be decoded:"
        return "\n  ".join([head, *self.names[:_MAX_LISTED], *rest])
