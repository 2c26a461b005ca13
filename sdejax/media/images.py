"""Read image files of any size, mode and orientation as arrays; write arrays as PNG files, whole or not at all."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sdejax.runtime.files import write_atomically

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I", "F")


def open_image(path: str | Path, channels: int = 3, background: int = 255) -> Image.Image:
    """Read an image file as 8-bit RGB (3 channels) or grey (1 channel).

    The image is turned upright by its EXIF data. Transparent parts show the grey level `background`.

    **Raises:** `ValueError` that names the path, if the file is missing, not an image, or cut short.
    """
    return flatten(_read(path), "L" if channels == 1 else "RGB", background)


def open_patch(path: str | Path) -> Image.Image:
    """Read an image file as 8-bit RGBA, turned upright; it is opaque if it has no transparency.

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
    """Convert an image of any mode to 8-bit "RGB" or "L"; transparent parts show the grey level `background`."""
    if image.mode in _DEEP_MODES:
        # Pillow's own conversion clips 16-bit grey at 255 instead of scaling it. Mode "I" holds 16-bit values (from
        # PNG) or 32-bit values; mode "F" has no fixed range. So "I" is read as 16 bits, and "F" as 16 bits if a value
        # is above 255.
        wide = np.asarray(image).astype(np.float64)
        deep = image.mode.startswith("I") or wide.max(initial=0.0) > 255.0
        image = Image.fromarray(np.clip(np.rint(wide / (257.0 if deep else 1.0)), 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (background,) * 3 + (255,)), image)
    return image.convert(mode)


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """Crop the image about its centre to the ratio width : height, then resize it to that size."""
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def to_array(image: Image.Image | np.ndarray) -> np.ndarray:
    """Convert 8-bit values to float32 in [-1, 1]: 0 becomes -1, 255 becomes 1."""
    return np.asarray(image, np.float32) / np.float32(127.5) - np.float32(1.0)


def to_bytes(array: np.ndarray) -> np.ndarray:
    """Convert floats in [-1, 1] to uint8, rounded and clipped. This inverts `to_array`.

    **Raises:** `ValueError` if a value is not finite.
    """
    array = np.asarray(array, np.float32)
    if not np.isfinite(array).all():
        raise ValueError("images: a value is NaN or infinite: the model is broken, or a tolerance is too small")
    return np.clip(np.rint((array + 1.0) * 127.5), 0, 255).astype(np.uint8)


def to_image(array: np.ndarray) -> Image.Image:
    """Convert an array (h, w, c) in [-1, 1] to an image; c is 1 or 3."""
    pixels = to_bytes(array)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def png_bytes(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def save_png(path: str | Path, image: Image.Image) -> None:
    """Write an image as a PNG file, whole or not at all."""
    write_atomically(path, png_bytes(image))


def contact_sheet(images: Sequence[Image.Image], columns: int = 0, scale: int = 0, gap: int = 4) -> Image.Image:
    """Arrange images in rows on white.

    The largest image is enlarged `scale` times (0: by as much as it takes to reach 96 pixels). A smaller image is
    enlarged by the largest whole number that fits its cell. `columns=0` means up to 8 columns.
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
    """How a picture of any size becomes a model's image and back: it is padded to the model's ratio, then resized.

    `size` is the picture's (width, height), and `padded` is its size with the border. `offset` is the position (left,
    top) of the picture inside the border. `shape` is the model's (h, w, c).
    """

    size: tuple[int, int]
    padded: tuple[int, int]
    offset: tuple[int, int]
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, size: tuple[int, int], shape: tuple[int, int, int]) -> "Placement":
        """Place a picture of `size` (width, height) in a model's image of `shape` (h, w, c)."""
        width, height = size
        ratio = shape[1] / shape[0]
        padded = (max(width, round(height * ratio)), max(height, round(width / ratio)))
        return cls(size, padded, ((padded[0] - width) // 2, (padded[1] - height) // 2), shape)

    @property
    def exact(self) -> bool:
        """Whether the picture has the model's size, so that no pixel is resampled."""
        return self.size == (self.shape[1], self.shape[0])

    def to_model(self, picture: np.ndarray) -> np.ndarray:
        """Convert a float picture (height, width, channels) to (h, w, channels); the border repeats its edge."""
        (width, height), (left, top) = self.size, self.offset
        border = ((top, self.padded[1] - height - top), (left, self.padded[0] - width - left), (0, 0))
        return _resize(np.pad(picture, border, mode="edge"), (self.shape[1], self.shape[0]))

    def from_model(self, image: np.ndarray) -> np.ndarray:
        """Convert a float image (h, w, channels) to a picture of `size`: the inverse of `to_model`."""
        (width, height), (left, top) = self.size, self.offset
        return _resize(image, self.padded)[top : top + height, left : left + width]


def _resize(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize floats (h, w, c) to `size` (width, height) without rounding: by area means if smaller, else by cubics."""
    if array.shape[1::-1] == size:
        return array
    method = Image.Resampling.BOX if array.shape[0] > size[1] else Image.Resampling.BICUBIC
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(array[..., c], np.float32)).resize(size, method))
        for c in range(array.shape[-1])
    ]
    return np.stack(planes, -1)


def open_mask(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """Read a mask file as floats (height, width, 1): white becomes 1 (edit), black and transparent become 0 (keep).

    **Raises:** `ValueError` if the file cannot be read, or if its size is not `size` (width, height).
    """
    image = open_image(path, 1, background=0)
    if image.size != size:
        raise ValueError(
            f"mask={str(path)!r}: is {image.width} x {image.height}, must be the image's {size[0]} x {size[1]}"
        )
    return np.asarray(image, np.float32)[..., None] / 255.0
