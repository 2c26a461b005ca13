"""What `sdejax.load` needs to know of a layout, which is one way to keep the weights of a model in files.

A new layout is one file with a class like this one, and one line in `sdejax.pretrained.load.LAYOUTS`.
"""

import dataclasses
from pathlib import Path
from typing import Protocol

from sdejax.model.model import Model
from sdejax.sde.base import SDE


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """What a user says of weights whose files do not say it; a layout whose files do ignores it.

    - `sde`: the process that the network was trained on.
    - `size`: the side of its images.
    - `fir`: whether it filters as it resamples.
    """

    sde: SDE | None = None
    size: int | None = None
    fir: bool | None = None


class WeightsLayout(Protocol):
    """One way to keep the weights of a model in a file or a folder."""

    @property
    def description(self) -> str:
        """What such a file or folder is, for the error about a path that no layout reads."""
        ...

    def reads(self, path: Path) -> bool:
        """Whether the file or folder has this layout, judged by names alone."""
        ...

    def read(self, path: Path, options: LoadOptions) -> Model:
        """Read the model.

        **Raises:** `ValueError` that names the path, if a file is missing or damaged, or the weights do not fit.
        """
        ...
