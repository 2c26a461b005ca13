"""`sdejax warmup`: compile the programs of a job before it starts."""

import dataclasses
import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from sdejax.commands.arguments import FLAT, parse
from sdejax.commands.options import FlatRun, Run, Snapshot
from sdejax.commands.sample import SampleCommand, draw

if TYPE_CHECKING:
    from sdejax.model.model import Model


@dataclasses.dataclass(frozen=True)
class WarmupCommand:
    """Compile what `sdejax sample` needs with the same options, so that it starts at once.

    `sdejax edit` and `sdejax sync` have the option --warmup. It compiles what the same command needs without --warmup.
    """

    verb: ClassVar[str] = "warmup"
    snapshot: Snapshot
    """A snapshot folder."""
    shape: str | None = None
    """The height, width and channels that the snapshot's images must have, such as 32x32x3."""
    guidance: float | None = None
    """The scale of classifier-free guidance, if the job has one. All scales have the same program."""
    # So many seeds fill the batches of any number of devices.
    run: FlatRun = dataclasses.field(default=Run(seeds=f"0-{2**32 - 1}"), metadata=FLAT)

    def execute(self) -> int:
        """Compute one batch on every device, and keep its programs but no image."""
        shape = None if self.shape is None else parse_shape(self.shape)
        run = dataclasses.replace(self.run, warmup=True)
        return draw(SampleCommand(self.snapshot, guidance=self.guidance, run=run), partial(_check_shape, shape))


def from_words(words: Sequence[str]) -> WarmupCommand:
    """The command that these words ask for."""
    return parse(WarmupCommand, words)


def parse_shape(text: str) -> tuple[int, ...]:
    """The three numbers of "32x32x3", "32,32,3" or "(32, 32, 3)".

    **Raises:** `ValueError` for any other text.
    """
    match = re.fullmatch(r"\(?\s*(\d+)\s*[x,]\s*(\d+)\s*[x,]\s*(\d+)\s*\)?", text)
    if match is None:
        raise ValueError(f"--shape={text!r}: must be height, width and channels, such as 32x32x3")
    return tuple(map(int, match.groups()))


def _check_shape(shape: tuple[int, ...] | None, model: "Model") -> None:
    if shape not in (None, model.shape):
        asked, found = ("x".join(map(str, numbers)) for numbers in (shape, model.shape))
        raise ValueError(f"--shape={asked}: must be {found}, the shape of the snapshot's images")
