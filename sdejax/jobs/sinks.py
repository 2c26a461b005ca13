"""The protocol of an output format: a sink takes the images of a job and writes them to a folder.

To add a format, write a file with a sink, or with a `ShardFormat` of `sdejax.jobs.shards`, and add it to `FORMATS` of
`sdejax.jobs.formats`.
"""

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Protocol

from sdejax.jobs.ranges import NumberRange
from sdejax.runtime.storage import Folder


@dataclasses.dataclass(frozen=True)
class Destination:
    """What a sink is made for.

    - `folder`: where it writes.
    - `identity`: what distinguishes the job from other jobs that the folder may hold, as JSON.
    - `shard_size`: how many images the person wants in one file, or None.
    - `index`, `count`: this is process `index` of `count`.
    """

    folder: Folder
    identity: dict[str, Any] = dataclasses.field(default_factory=dict)
    shard_size: int | None = None
    index: int = 0
    count: int = 1


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """A finished image.

    - `number`: the number of its task.
    - `png`: its bytes.
    - `about`: what the index of a shard says of it, at least "key" (the name of its files), "seed" and "prompt".
    - `record`: what reproduces it alone.
    """

    number: int
    png: bytes
    about: dict[str, Any]
    record: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of its files."""
        return self.about["key"]


class Sink(Protocol):
    """Takes the images of a process in order.

    `add` and `close` return objects for the machine-readable output, one for each file that is now complete.
    """

    def missing(self, numbers: Sequence[NumberRange]) -> list[NumberRange]:
        """The numbers that the folder may lack, after a look at its list of files. Called on process 0 for all.

        **Raises:** `ValueError` if the folder holds images of another job.
        """
        ...

    def block_size(self, per_device: int, images: int) -> int:
        """How many tasks in a row one process does, in a job of so many images, `per_device` of them at once."""
        ...

    def have(self, images: Sequence[tuple[str, dict[str, Any]]]) -> list[bool]:
        """Which images the folder has already, given their names and records."""
        ...

    def add(self, image: EncodedImage, block: NumberRange) -> list[dict[str, Any]]:
        """Write an image of a block."""
        ...

    def close(self) -> list[dict[str, Any]]:
        """Complete the last files."""
        ...

    def abandon(self) -> None:
        """Stop after an error, and leave no incomplete file."""
        ...

    def finish(self, numbers: Sequence[NumberRange], whole: bool) -> int | None:
        """Finish the job as process 0, after all processes. `whole` says that `numbers` are all its images.

        **Returns:** how many images the folder gained, or None if the sink does not count them.
        """
        ...

    def find_pngs(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """The names and PNGs of those of these images that the folder has."""
        ...
