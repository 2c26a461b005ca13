"""`sdejax warmup`: compile the programs of a job before it starts."""

import dataclasses
import re
from functools import partial
from typing import Any

from sdejax.commands.arguments import FLAT
from sdejax.commands.options import Run, RunOptions, Snapshot
from sdejax.commands.sample import Sample, sample


@dataclasses.dataclass(frozen=True)
class Warmup:
    """Compile what `sdejax sample` needs with the same options, so that it starts at once.

    `sdejax edit` and `sdejax sync` have --warmup, which does it for the job that their other options describe.
    """

    snapshot: Snapshot
    """A snapshot folder."""
    shape: str | None = None
    """Height, width and channels of an image, such as 32x32x3; a snapshot has one shape, and another is refused."""
    guidance: float | None = None
    """Classifier-free guidance scale, where the job has one; its value compiles nothing."""
    # So many seeds that the batches are full on any number of devices.
    run: RunOptions = dataclasses.field(default=Run(seeds=f"0-{2**32 - 1}"), metadata=FLAT)


def warmup(command: Warmup) -> int:
    """Compute one batch on every device, and keep the programs and no image.

    **Raises:** `ValueError` for a shape that is not the snapshot's, and what `sample` raises.
    """
    run = dataclasses.replace(command.run, warmup=True)
    asked = Sample(command.snapshot, guidance=command.guidance, run=run)
    return sample(asked, partial(_check_shape, parse_shape(command.shape)))


def parse_shape(text: str | None) -> tuple[int, ...] | None:
    """ "32x32x3", "32,32,3" or "(32, 32, 3)" to numbers.

    **Raises:** `ValueError` for anything else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\(?\s*(\d+)\s*[x,]\s*(\d+)\s*[x,]\s*(\d+)\s*\)?", text)
    if match is None:
        raise ValueError(f"--shape={text!r}: must be height, width and channels, such as 32x32x3")
    return tuple(map(int, match.groups()))


def _check_shape(shape: tuple[int, ...] | None, model: Any) -> None:
    if shape not in (None, model.shape):
        asked, found = ("x".join(map(str, numbers)) for numbers in (shape, model.shape))
        raise ValueError(f"--shape={asked}: must be that of the snapshot's images, {found}")
