"""The input of an edit: a picture and a mask at the model's size, and the way back to the picture's size."""

import dataclasses
import re

import numpy as np
from PIL import Image

from sdejax.media.guides import composite, find_strokes, grow
from sdejax.media.images import Placement, open_image, open_mask, open_patch, to_array, to_image


@dataclasses.dataclass(frozen=True)
class Input:
    """A picture to edit.

    `shown` is the picture at its own size. `image` (h, w, c) in [-1, 1] and `mask` (h, w, 1) in [0, 1] have the
    model's size. `kept` (height, width) is True for the pixels of the picture that must not change; None means none.
    """

    shown: Image.Image
    placement: Placement
    image: np.ndarray
    mask: np.ndarray
    kept: np.ndarray | None

    @classmethod
    def of(cls, picture: Image.Image, mask: np.ndarray | None, shape: tuple[int, int, int]) -> "Input":
        """Prepare a picture ("RGB" or "L") and a mask (height, width, 1) in [0, 1] for a model of `shape` (h, w, c)."""
        placement = Placement.of(picture.size, shape)
        image = placement.to_model(_float(picture))
        if mask is None:
            return cls(picture, placement, image, np.ones((*shape[:2], 1), np.float32), None)
        return cls(picture, placement, image, np.clip(placement.to_model(mask), 0.0, 1.0), mask[..., 0] <= 0.0)

    def replaced(self, result: np.ndarray) -> Image.Image:
        """Replace the picture by a result (h, w, c), except the kept pixels."""
        return self._finish(self.placement.from_model(result))

    def changed(self, result: np.ndarray) -> Image.Image:
        """Add the change that the edit made to the picture, so that the picture keeps its own detail."""
        if self.placement.exact:
            return self._finish(result)
        return self._finish(_float(self.shown) + self.placement.from_model(result - self.image))

    def _finish(self, picture: np.ndarray) -> Image.Image:
        edited = to_image(picture)
        if self.kept is not None:
            edited.paste(self.shown, mask=Image.fromarray(np.where(self.kept, np.uint8(255), np.uint8(0))))
        return edited


def open_input(
    path: str,
    shape: tuple[int, int, int],
    *,
    mask: str | None = None,
    original: str | None = None,
    paste: str | None = None,
    at: str | None = None,
    scale: float = 1.0,
) -> Input:
    """Read the files of an input.

    **Arguments:**

    - `path`: the picture, of any size.
    - `shape`: the shape (h, w, c) of the model's images.
    - `mask`: an image of the picture's size; white pixels are edited.
    - `original`: the picture before strokes were drawn on it. The mask is then the set of pixels that differ, grown by
      a few pixels.
    - `paste`, `at`, `scale`: a patch to paste on the picture, the pixel "X,Y" for its top left corner, and the factor
      by which it is resized first. Without `mask`, the mask is the area that the patch covers, grown by a few pixels.

    **Raises:** `ValueError` if a file cannot be read, a value is outside its range, or two arguments exclude each
    other.
    """
    if original is not None and mask is not None:
        raise ValueError(f"mask={mask!r}, original={original!r}: give one of them; the mask follows from the original")
    if original is not None and paste is not None:
        raise ValueError(f"paste={paste!r}, original={original!r}: give one of them; a mask follows from each")
    if paste is None and (at is not None or scale != 1.0):
        name, value = ("at", at) if at is not None else ("scale", scale)
        raise ValueError(f"{name}={value!r}: says where a patch goes, and needs paste")
    if paste is not None and at is None:
        raise ValueError(f"paste={paste!r}: needs at, the pixel X,Y of the patch's top left corner")
    picture, found = open_image(path, shape[2]), None
    if original is not None:
        found = find_strokes(open_image(path), open_image(original))
    if paste is not None:
        picture, covered = composite(picture, open_patch(paste), parse_at(at or ""), scale)
        found = grow(covered)
    if mask is not None:
        return Input.of(picture, open_mask(mask, picture.size), shape)
    return Input.of(picture, None if found is None else np.asarray(found, np.float32)[..., None] / 255.0, shape)


def parse_at(text: str) -> tuple[int, int]:
    """Read a pixel such as "12,-3".

    **Raises:** `ValueError` if the text is not of this form.
    """
    match = re.fullmatch(r"\s*([-+]?\d{1,6})\s*,\s*([-+]?\d{1,6})\s*", text)
    if not match:
        raise ValueError(f"at={text!r}: must be a pixel X,Y such as 12,-3")
    return int(match[1]), int(match[2])


def _float(picture: Image.Image) -> np.ndarray:
    """Convert a picture to floats (height, width, c) in [-1, 1]."""
    return to_array(picture).reshape(picture.height, picture.width, -1)
