"""`sdejax strokes`: a stroke painting of a picture."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import tyro
from tyro.conf import Positional

from sdejax.commands.arguments import parse


@dataclasses.dataclass(frozen=True)
class StrokesCommand:
    """Turn a picture into a painting of few strokes, which is a guide for `sdejax edit`.

    A median filter makes the strokes; then the painting gets few colours.
    """

    verb: ClassVar[str] = "strokes"
    image: Annotated[Positional[str], tyro.conf.arg(metavar="IMAGE")]
    """An image of any size and mode; the painting has the same size."""
    out: Annotated[Positional[str], tyro.conf.arg(metavar="OUT")]
    """The PNG file to write."""
    colours: int = 6
    """The largest number of colours, from 2 to 256."""
    filter: float = 23 / 256
    """The width of the median filter as a share of the shorter side, in (0, 1]."""

    def execute(self) -> int:
        """Write the painting."""
        from sdejax.media.guides import stroke_painting
        from sdejax.media.images import open_image, save_png

        out = Path(self.out)
        if out.suffix.lower() != ".png" or out.is_dir():
            raise ValueError(f"OUT={self.out!r}: must be the name of a PNG file, such as strokes.png")
        painting = stroke_painting(open_image(self.image), self.colours, self.filter)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            save_png(out, painting)
        except OSError as error:
            raise ValueError(f"OUT={self.out!r}: cannot be written ({error.strerror})") from None
        print(f"{out}: {painting.width} x {painting.height}, {len(painting.getcolors() or [])} colours")
        return 0


def from_words(words: Sequence[str]) -> StrokesCommand:
    """The command that these words ask for."""
    return parse(StrokesCommand, words)
