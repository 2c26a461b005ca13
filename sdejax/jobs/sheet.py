"""The contact sheet of a job: its first images in one picture."""

import dataclasses
import io
from collections.abc import Callable, Iterable, Sequence, Set

from PIL import Image

from sdejax.media.images import contact_sheet, png_bytes
from sdejax.runtime.storage import Folder

_CELLS = 256  # at most on a sheet
_CELL = 512  # pixels at most
NAME = "sheet.png"


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The cells of a contact sheet in reading order. The first 256 are shown.

    A cell is a picture, or the name of a task. A task that made no image has no cell. If `columns` is 0, the number of
    columns follows from the number of cells.
    """

    cells: Sequence[Image.Image | str]
    columns: int = 0

    @property
    def shown(self) -> Sequence[Image.Image | str]:
        """The cells that are shown."""
        return self.cells[:_CELLS]


def reduced(image: Image.Image) -> Image.Image:
    """A copy that fits in a cell."""
    copy = image.copy()
    copy.thumbnail((_CELL, _CELL))
    return copy


def write_sheet(
    folder: Folder,
    sheet: Sheet,
    pictures: dict[str, Image.Image],
    find: Callable[[Set[str]], Iterable[tuple[str, bytes]]],
) -> str | None:
    """Write the contact sheet.

    **Arguments:**

    - `pictures`: the pictures of tasks, by name.
    - `find(names)`: the names and PNGs of other tasks, for the tasks that have any.

    **Returns:** the address of the sheet, or None if there is no picture to show.
    """
    missing = {cell for cell in sheet.shown if isinstance(cell, str)} - pictures.keys()
    pictures = pictures | {name: _reduced_png(png) for name, png in find(missing)}
    cells = [pictures.get(cell) if isinstance(cell, str) else reduced(cell) for cell in sheet.shown]
    found = [cell for cell in cells if cell is not None]
    if not found:
        return None
    folder.write(NAME, png_bytes(contact_sheet(found, sheet.columns)))
    return folder.show(NAME)


def _reduced_png(png: bytes) -> Image.Image:
    with Image.open(io.BytesIO(png)) as image:
        return reduced(image)
