"""Image files to arrays and back: any size, mode and orientation in, PNG out, written whole or not at all."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sdejax.runtime.files import write_atomically as write_atomically

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I", "F")


def open_image(path: str | Path, channels: int = 3, background: int = 255) -> Image.Image:
    """An image file as RGB (3 channels) or grey (1): turned upright (EXIF), 8 bits, transparency on `background`.

    **Raises:** `ValueError` naming the path where it is missing, not an image, or cut short.
    """
    return flatten(_read(path), "L" if channels == 1 else "RGB", background)


def open_patch(path: str | Path) -> Image.Image:
    """An image file as RGBA, upright, 8 bits; opaque where it has no transparency.

    **Raises:** as `open_image`.
    """
    image = _read(path)
    return flatten(image, "RGB", 255).convert("RGBA") if image.mode in _DEEP_MODES else image.convert("RGBA")


def _read(path: str | Path) -> Image.Image:
    path = Path(path)
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise ValueError(f"image={str(path)!r}: no such file") from None
    except UnidentifiedImageError:
        raise ValueError(f"image={str(path)!r}: not an image that Pillow can read") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"image={str(path)!r}: cannot be read, it may be cut short ({error})") from None


def flatten(image: Image.Image, mode: str, background: int) -> Image.Image:
    """Any mode of Pillow's as "RGB" or "L" of 8 bits, transparency on the grey level `background`."""
    if image.mode in _DEEP_MODES:
        # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling.
        # "I" may be 16 bits in a 32-bit coat (PNG) or true 32 bits; "F" has no depth at all: take what holds its range.
        wide = np.asarray(image).astype(np.float64)
        deep = image.mode.startswith("I") or wide.max(initial=0.0) > 255.0
        image = Image.fromarray(np.clip(np.rint(wide / (257.0 if deep else 1.0)), 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (background,) * 3 + (255,)), image)
    return image.convert(mode)


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """Crop the middle to the ratio width : height, then resize."""
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def to_array(image: Image.Image | np.ndarray) -> np.ndarray:
    """8 bits to float32 in [-1, 1]: 0 is -1, 255 is 1."""
    return np.asarray(image, np.float32) / np.float32(127.5) - np.float32(1.0)


def to_bytes(array: np.ndarray) -> np.ndarray:
    """float in [-1, 1] to uint8, rounded and clipped; the inverse of `to_array` on its values.

    **Raises:** `ValueError` where a value is not finite.
    """
    array = np.asarray(array, np.float32)
    if not np.isfinite(array).all():
        raise ValueError("images: a value is NaN or infinite: a broken model, or too small a tolerance")
    return np.clip(np.rint((array + 1.0) * 127.5), 0, 255).astype(np.uint8)


def to_image(array: np.ndarray) -> Image.Image:
    """(h, w, c) in [-1, 1] to a picture, c 1 or 3."""
    pixels = to_bytes(array)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def png_bytes(image: Image.Image) -> bytes:
    """What a PNG file of the image holds."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def save_png(path: str | Path, image: Image.Image) -> None:
    """Write a PNG, whole or not at all."""
    write_atomically(path, png_bytes(image))


def contact_sheet(images: Sequence[Image.Image], columns: int = 0, scale: int = 0, gap: int = 4) -> Image.Image:
    """The images in rows on white, the largest enlarged `scale` times (by default to at least 96 pixels).

    Smaller ones are enlarged by the whole number that still fits.
    """
    width, height = max(image.width for image in images), max(image.height for image in images)
    scale = scale or max(1, -(-96 // max(width, height)))
    columns = columns or min(8, len(images))
    rows = -(-len(images) // columns)
    cell_width, cell_height = width * scale + gap, height * scale + gap
    sheet = Image.new("RGB", (columns * cell_width + gap, rows * cell_height + gap), "white")
    for i, image in enumerate(images):
        times = min(width * scale // image.width, height * scale // image.height)
        enlarged = image.convert("RGB").resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (gap + i % columns * cell_width, gap + i // columns * cell_height))
    return sheet


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a picture of any size lies in a model's image: padded to the model's ratio, then resized.

    `size` is the picture's (width, height), `padded` the size with its border, `offset` the picture's corner in it.
    """

    size: tuple[int, int]
    padded: tuple[int, int]
    offset: tuple[int, int]
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, size: tuple[int, int], shape: tuple[int, int, int]) -> "Placement":
        """The placement of a picture of `size` (width, height) in a model's images of `shape` (h, w, c)."""
        width, height = size
        ratio = shape[1] / shape[0]
        padded = (max(width, round(height * ratio)), max(height, round(width / ratio)))
        return cls(size, padded, ((padded[0] - width) // 2, (padded[1] - height) // 2), shape)

    @property
    def exact(self) -> bool:
        """Whether the picture has the model's size, so that nothing is resampled."""
        return self.size == (self.shape[1], self.shape[0])

    def to_model(self, picture: np.ndarray) -> np.ndarray:
        """A float picture (height, width, channels) of `size` as (h, w, channels); the border repeats its edge."""
        (width, height), (left, top) = self.size, self.offset
        border = ((top, self.padded[1] - height - top), (left, self.padded[0] - width - left), (0, 0))
        return _resize(np.pad(picture, border, mode="edge"), (self.shape[1], self.shape[0]))

    def from_model(self, image: np.ndarray) -> np.ndarray:
        """The inverse: a float (h, w, channels) as a picture of `size`."""
        (width, height), (left, top) = self.size, self.offset
        return _resize(image, self.padded)[top : top + height, left : left + width]


def _resize(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize float (h, w, c) to (width, height): area means on the way down, cubic on the way up; no rounding."""
    if array.shape[1::-1] == size:
        return array
    method = Image.Resampling.BOX if array.shape[0] > size[1] else Image.Resampling.BICUBIC
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(array[..., c], np.float32)).resize(size, method))
        for c in range(array.shape[-1])
    ]
    return np.stack(planes, -1)


def open_mask(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """A mask file as float (height, width, 1) in [0, 1]: white 1 edits, black and transparent 0 keep.

    **Raises:** `ValueError` where it cannot be read or is not of `size` (width, height).
    """
    image = open_image(path, 1, background=0)
    if image.size != size:
        raise ValueError(
            f"mask={str(path)!r}: is {image.width} x {image.height}, must be the image's {size[0]} x {size[1]}"
        )
    return np.asarray(image, np.float32)[..., None] / 255.0
