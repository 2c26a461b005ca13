"""`sdejax export`: a snapshot for other libraries."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, ClassVar

import tyro
from tyro.conf import Positional

from sdejax.commands.arguments import parse
from sdejax.commands.options import Snapshot


@dataclasses.dataclass(frozen=True)
class ExportCommand:
    """Write a snapshot as safetensors with readable names, and as a diffusers folder if that can hold its network."""

    verb: ClassVar[str] = "export"
    snapshot: Snapshot
    """A snapshot folder, or anything else that import reads."""
    out: Annotated[Positional[str], tyro.conf.arg(metavar="OUT")]
    """The folder to write to."""

    def execute(self) -> int:
        """Write the folder."""
        from sdejax.pretrained.convert import export_model

        reason = export_model(self.snapshot, self.out)
        written = f"safetensors; no diffusers folder: {reason}" if reason else "safetensors, diffusers"
        print(f"{self.out}: {written}")
        return 0


def from_words(words: Sequence[str]) -> ExportCommand:
    """The command that these words ask for."""
    return parse(ExportCommand, words)
