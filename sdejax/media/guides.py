"""Guides for SDEdit (Meng et al. 2022, section 4): stroke paintings, strokes on a photo, composites.

The functions take and return Pillow images. A mask is a grey image (mode "L"): 255 is edited, 0 is kept.
"""

import math

import numpy as np
from PIL import Image, ImageChops, ImageFilter

COLOURS = 6
FILTER_WIDTH = 23 / 256  # a share of the shorter side; the paper uses 23 pixels at 256
# The least difference of a stroke, in levels of 255. JPEG at quality 75 changed examples/images by up to 21 at 256
# pixels, and by more at 32 pixels.
STROKE_DIFFERENCE = 32
MASK_GROWTH = 3 / 256  # a share of the shorter side; enough to cover seams and the soft edge of a brush
_MAX_MEDIAN_WIDTH = 31  # pixels; the time of Pillow's median filter grows with the square of its width
_MAX_GROWTH = 250  # pixels; 255 / (2 * 250 + 1) still rounds to 1


def stroke_painting(image: Image.Image, colours: int = COLOURS, filter: float = FILTER_WIDTH) -> Image.Image:
    """Imitate a painting made of few strokes: apply a median filter, then reduce the colours (Meng et al. 2022).

    **Arguments:**

    - `image`: an image of mode "RGB" or "L", of any size.
    - `colours`: the largest number of colours in the result, 2 to 256.
    - `filter`: the width of the median filter as a share of the image's shorter side, in (0, 1]. It is rounded to an
      odd number of pixels, at least 3. If it is above 31 pixels, the image is first reduced by a whole number to save
      time, and the flat areas are then enlarged with smooth borders.

    **Returns:** an "RGB" image of the same size.

    **Raises:** `ValueError` if `colours` or `filter` is outside its range.
    """
    if not 2 <= colours <= 256:
        raise ValueError(f"colours={colours}: must be from 2 to 256")
    if not 0.0 < filter <= 1.0:
        raise ValueError(f"filter={filter}: must be in (0, 1], a share of the image's shorter side")
    width = filter * min(image.size)
    factor = math.ceil(_odd(width) / _MAX_MEDIAN_WIDTH)
    small = image.reduce(factor) if factor > 1 else image
    flat = small.filter(ImageFilter.MedianFilter(_odd(width / factor))).convert("RGB")
    few = flat.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    if factor == 1:
        return few.convert("RGB")
    palette = np.asarray(few.getpalette(), np.uint8).reshape(-1, 3)
    return Image.fromarray(palette[_enlarge_areas(np.asarray(few), image.size, factor)])


def _enlarge_areas(index: np.ndarray, size: tuple[int, int], factor: int) -> np.ndarray:
    """Enlarge colour numbers (h, w), reduced by `factor`, to `size` (width, height); the borders become smooth.

    To enlarge the colours themselves would put a third colour between two areas. So the mask of each area is enlarged,
    and each pixel gets the colour with the largest value.
    """
    extent = (0.0, 0.0, size[0] / factor, size[1] / factor)
    largest, chosen = np.zeros(size[::-1], np.uint8), np.zeros(size[::-1], np.uint8)
    for colour in np.unique(index):
        area = Image.fromarray(np.where(index == colour, np.uint8(255), np.uint8(0)))
        enlarged = np.asarray(area.resize(size, Image.Resampling.BILINEAR, extent))
        chosen[enlarged > largest] = colour
        largest = np.maximum(largest, enlarged)
    return chosen


def _odd(pixels: float) -> int:
    """Round to an odd number of pixels, at least 3."""
    return max(3, 2 * int(pixels / 2) + 1)


def find_strokes(picture: Image.Image, original: Image.Image, growth: float = MASK_GROWTH) -> Image.Image:
    """Find what was painted on an image.

    **Arguments:**

    - `picture`, `original`: the image with and without the strokes, of the same size.
    - `growth`: as in `grow`.

    **Returns:** a mask of the pixels in which a channel differs by more than `STROKE_DIFFERENCE` levels, grown.

    **Raises:** `ValueError` if the sizes differ, or if no pixel differs.
    """
    if picture.size != original.size:
        raise ValueError(
            f"original: is {original.width} x {original.height}, must be the picture's "
            f"{picture.width} x {picture.height}"
        )
    bands = ImageChops.difference(picture.convert("RGB"), original.convert("RGB")).split()
    largest = ImageChops.lighter(ImageChops.lighter(bands[0], bands[1]), bands[2])
    if largest.getextrema()[1] <= STROKE_DIFFERENCE:  # pyright: ignore[reportOperatorIssue]
        raise ValueError(f"original: the picture nowhere differs from it by more than {STROKE_DIFFERENCE} of 255")
    return grow(_above(largest, STROKE_DIFFERENCE), growth)


def grow(mask: Image.Image, growth: float = MASK_GROWTH) -> Image.Image:
    """Extend a mask of 0 and 255 on every side by `growth` times its shorter side.

    The mask grows by at least one pixel, unless `growth` is 0.
    """
    pixels = min(_MAX_GROWTH, max(1, round(growth * min(mask.size)))) if growth else 0
    # The result is that of MaxFilter(2 pixels + 1), but the time does not depend on `pixels`. It is the same because a
    # mean is above 0 if and only if the maximum is.
    for radius in ((pixels, 0), (0, pixels)):
        mask = _above(mask.filter(ImageFilter.BoxBlur(radius)), 0)
    return mask


def _above(image: Image.Image, level: int) -> Image.Image:
    """Set the pixels of a grey image to 255 if they are above a level, else to 0."""
    return image.point([0] * (level + 1) + [255] * (255 - level))


def composite(
    picture: Image.Image, patch: Image.Image, at: tuple[int, int], scale: float = 1.0
) -> tuple[Image.Image, Image.Image]:
    """Paste a patch on a picture: (1 - a) picture + a patch, with the patch's alpha a.

    **Arguments:**

    - `picture`: an image of mode "RGB" or "L".
    - `patch`: an image of mode "RGBA".
    - `at`: the pixel (x, y) of the picture where the patch's top left corner goes. The patch may extend beyond the
      picture.
    - `scale`: the patch is first resized by this factor, above 0.

    **Returns:** the composite, and the mask of the pixels that the patch covers (alpha above 0).

    **Raises:** `ValueError` if `scale` is outside its range, or if the patch covers no pixel.
    """
    if not (0.0 < scale < math.inf and max(patch.size) * scale <= 2**15):
        raise ValueError(f"scale={scale}: must be above 0, and the patch at most {2**15} pixels wide and high")
    if scale != 1.0:
        size = (max(1, round(patch.width * scale)), max(1, round(patch.height * scale)))
        # Ringing would brighten the patch along its cut edge. Hamming is the sharpest of Pillow's filters without it.
        patch = patch.resize(size, Image.Resampling.HAMMING)
    alpha = patch.getchannel("A")
    result, covered = picture.copy(), Image.new("L", picture.size)
    result.paste(patch.convert(picture.mode), at, alpha)
    covered.paste(_above(alpha, 0), at)
    if covered.getbbox() is None:
        raise ValueError(
            f"at={at[0]},{at[1]}: the patch of {patch.width} x {patch.height} covers nothing of the picture of "
            f"{picture.width} x {picture.height}"
        )
    return result, covered
