"""`sdejax strokes`: a stroke painting of a picture."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional


@dataclasses.dataclass(frozen=True)
class Strokes:
    """A picture as a painting of few strokes, a guide for `sdejax edit`: a median filter, then few colours."""

    image: Annotated[Positional[str], tyro.conf.arg(metavar="IMAGE")]
    """An image of any size and mode; the painting has its size."""
    out: Annotated[Positional[str], tyro.conf.arg(metavar="OUT")]
    """The PNG to write."""
    colours: int = 6
    """How many colours at most, 2 to 256."""
    filter: float = 23 / 256
    """The median filter's width as a share of the shorter side, in (0, 1]."""


def strokes(command: Strokes) -> int:
    """Write the painting."""
    from sdejax.media.guides import stroke_painting
    from sdejax.media.images import open_image, save_png

    out = Path(command.out)
    if out.suffix.lower() != ".png" or out.is_dir():
        raise ValueError(f"OUT={command.out!r}: must be the name of a PNG file, such as strokes.png")
    painting = stroke_painting(open_image(command.image), command.colours, command.filter)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_png(out, painting)
    except OSError as error:
        raise ValueError(f"OUT={command.out!r}: cannot be written ({error.strerror})") from None
    print(f"{out}: {painting.width} x {painting.height}, {len(painting.getcolors() or [])} colours")
    return 0
