"""`sdejax export`."""

import dataclasses
from typing import Annotated

import tyro
from tyro.conf import Positional

from sdejax.commands.options import Snapshot


@dataclasses.dataclass(frozen=True)
class Export:
    """A snapshot to safetensors by readable names, and to a diffusers folder where that layout can hold it."""

    snapshot: Snapshot
    """A snapshot folder, or anything that import reads."""
    out: Annotated[Positional[str], tyro.conf.arg(metavar="OUT")]
    """The folder to write."""


def export(command: Export) -> int:
    """Write the folder."""
    from sdejax.pretrained.convert import export_model

    reason = export_model(command.snapshot, command.out)
    print(f"{command.out}: " + (f"safetensors; no diffusers folder: {reason}" if reason else "safetensors, diffusers"))
    return 0
