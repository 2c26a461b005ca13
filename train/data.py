"""Images, and captions where there are any, in an order that depends on the seed alone."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np

from sdejax.images import SUFFIXES, fit, open_image, to_array

_CACHE_BYTES = 512 * 2**20  # a decoded set up to this size is kept in memory


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """The images below a folder, sorted by path, and their captions from captions.jsonl ("" without one)."""

    files: tuple[Path, ...]
    captions: tuple[str, ...]

    @classmethod
    def read(cls, folder: str | Path, captioned: bool = False) -> "ImageFolder":
        """List a folder.

        captions.jsonl has one object per line with the keys file (a path in the folder) and caption.

        **Raises:** `ValueError` where the folder is missing or has no image, or no captions though `captioned`.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"data={str(folder)!r}: no such folder; it must be a folder of images")
        files = tuple(sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES))
        if not files:
            raise ValueError(f"data={str(folder)!r}: has no image; looked for {', '.join(sorted(SUFFIXES))}")
        if not captioned:
            return cls(files, ("",) * len(files))
        listing = folder / "captions.jsonl"
        if not listing.is_file():
            raise ValueError(f"captions={captioned}: {str(listing)!r} is missing; turn captions off or write it")
        rows = (json.loads(line) for line in listing.read_text(encoding="utf-8").splitlines() if line.strip())
        by_file = {folder / row["file"]: row["caption"] for row in rows}
        return cls(files, tuple(by_file.get(path, "") for path in files))


class _Decoded:
    """Random access to (image uint8, caption tokens); a small set is decoded once."""

    def __init__(self, folder: ImageFolder, shape: tuple[int, int, int], tokens: np.ndarray | None):
        self.folder, self.shape, self.tokens = folder, shape, tokens
        self.cache: dict[int, np.ndarray] | None = {} if len(folder.files) * np.prod(shape) < _CACHE_BYTES else None

    def __len__(self) -> int:
        return len(self.folder.files)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image = self.cache.get(index) if self.cache is not None else None
        if image is None:
            image = decode(self.folder.files[index], self.shape)
            if self.cache is not None:
                self.cache[index] = image
        record = {"image": image}
        if self.tokens is not None:
            record["tokens"] = self.tokens[index]
        return record


def decode(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """One image file as uint8 of `shape`: upright, on white, its middle cropped to the shape's ratio, resized."""
    height, width, channels = shape
    return np.asarray(fit(open_image(path, channels), width, height))[..., :].reshape(shape)


def normalise(images: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [-1, 1]."""
    return to_array(images)


@dataclasses.dataclass(frozen=True)
class _RandomFlip(grain.transforms.RandomMap):
    def random_map(self, element: dict[str, np.ndarray], rng: np.random.Generator) -> Any:
        if rng.random() < 0.5:
            element = {**element, "image": element["image"][:, ::-1]}
        return element


def batches(
    folder: ImageFolder,
    shape: tuple[int, int, int],
    tokens: np.ndarray | None,
    *,
    batch: int,
    seed: int,
    flip: bool,
    start: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches from number `start` on: image uint8 (batch, h, w, c) and tokens (batch, words) if any.

    Every epoch is a permutation drawn from (seed, epoch). Batch n is the same however the run came to it, so the
    iterator's position is the step.
    """
    dataset = grain.MapDataset.source(_Decoded(folder, shape, tokens)).seed(seed).shuffle().repeat()
    if flip:
        dataset = dataset.random_map(_RandomFlip())
    dataset = dataset.batch(batch, drop_remainder=True)
    stream = dataset.slice(slice(start, None)) if start else dataset
    return iter(stream.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))
