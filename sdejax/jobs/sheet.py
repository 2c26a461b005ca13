"""The contact sheet of a job: its first images together, for looking at."""

import dataclasses
import io
from collections.abc import Callable, Iterable, Sequence, Set

from PIL import Image

from sdejax.media.images import contact_sheet, png_bytes
from sdejax.runtime.storage import Folder

_CELLS = 256  # on a sheet at most
_CELL = 512  # pixels at most
NAME = "sheet.png"


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The cells in reading order, of which the first 256 are shown.

    A cell is an image, or the name of a task; one that made no image has no cell. `columns` is 0 for as many as fit.
    """

    cells: Sequence[Image.Image | str]
    columns: int = 0

    @property
    def shown(self) -> Sequence[Image.Image | str]:
        """The cells that there is room for."""
        return self.cells[:_CELLS]


def reduced(image: Image.Image) -> Image.Image:
    """A copy in the size of a cell."""
    copy = image.copy()
    copy.thumbnail((_CELL, _CELL))
    return copy


def write_sheet(
    folder: Folder,
    sheet: Sheet,
    pictures: dict[str, Image.Image],
    find: Callable[[Set[str]], Iterable[tuple[str, bytes]]],
) -> str | None:
    """Write the sheet of `pictures`, by name, and of the PNG that `find` gives of others; its address, or None without
    any cell.
    """
    missing = {cell for cell in sheet.shown if isinstance(cell, str)} - pictures.keys()
    pictures = pictures | {name: _reduced_png(png) for name, png in find(missing)}
    cells = [pictures.get(cell) if isinstance(cell, str) else reduced(cell) for cell in sheet.shown]
    there = [cell for cell in cells if cell is not None]
    if not there:
        return None
    folder.write(NAME, png_bytes(contact_sheet(there, sheet.columns)))
    return folder.show(NAME)


def _reduced_png(png: bytes) -> Image.Image:
    with Image.open(io.BytesIO(png)) as image:
        return reduced(image)
