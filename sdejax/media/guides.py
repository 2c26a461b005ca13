"""What SDEdit is given to edit (Meng et al. 2022, section 4): stroke paintings, strokes on a photo, composites.

Pillow images in and out. Masks are grey images ("L"): 255 is edited, 0 is kept.
"""

import math

import numpy as np
from PIL import Image, ImageChops, ImageFilter

COLOURS = 6
FILTER = 23 / 256  # the paper's 23 pixels at 256
DIFFERENCE = 32  # of 255; JPEG at quality 75 changed examples/images by up to 21 at 256 pixels (by more at 32 pixels)
GROWTH = 3 / 256  # of the shorter side: seams and a brush's soft edge lie within
_WIDEST = 31  # pixels; Pillow's median takes time with the square of its width
_WIDEST_GROWTH = 250  # pixels; 255 / (2 * 250 + 1) still rounds to 1


def stroke_painting(image: Image.Image, colours: int = COLOURS, filter: float = FILTER) -> Image.Image:
    """A painting as a person would do it with few strokes: a median filter, then few colours (Meng et al. 2022).

    **Arguments:**

    - `image`: of mode "RGB" or "L", any size.
    - `colours`: 2 to 256, how many the result has at most.
    - `filter`: the filter's width as a share of the image's shorter side, in (0, 1]; rounded to an odd number of
      pixels, at least 3. Above 31 pixels the image is first reduced by a whole number, for time, and the flat areas
      are enlarged again with smooth borders.

    **Returns:** an image of the same size, "RGB".

    **Raises:** `ValueError` for colours or a filter outside its range.
    """
    if not 2 <= colours <= 256:
        raise ValueError(f"colours={colours}: must be from 2 to 256")
    if not 0.0 < filter <= 1.0:
        raise ValueError(f"filter={filter}: must be in (0, 1], a share of the image's shorter side")
    width = filter * min(image.size)
    factor = math.ceil(_odd(width) / _WIDEST)
    small = image.reduce(factor) if factor > 1 else image
    flat = small.filter(ImageFilter.MedianFilter(_odd(width / factor))).convert("RGB")
    few = flat.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    if factor == 1:
        return few.convert("RGB")
    # Enlarging the colours themselves would put a third one between two areas: enlarge where each of them is.
    index = np.asarray(few)
    extent = (0.0, 0.0, image.width / factor, image.height / factor)
    best, chosen = np.zeros(image.size[::-1], np.uint8), np.zeros(image.size[::-1], np.uint8)
    for colour in np.unique(index):
        area = Image.fromarray(np.where(index == colour, np.uint8(255), np.uint8(0)))
        share = np.asarray(area.resize(image.size, Image.Resampling.BILINEAR, extent))
        chosen[share > best] = colour
        best = np.maximum(best, share)
    palette = np.asarray(few.getpalette(), np.uint8).reshape(-1, 3)
    return Image.fromarray(palette[chosen])


def _odd(pixels: float) -> int:
    """The nearest odd number of pixels, at least 3."""
    return max(3, 2 * int(pixels / 2) + 1)


def find_strokes(picture: Image.Image, original: Image.Image, growth: float = GROWTH) -> Image.Image:
    """The mask of what was painted on an image: where a channel differs by more than `DIFFERENCE` of 255, grown.

    **Arguments:** `picture` and `original` of the same size; `growth` as in `grow`.

    **Raises:** `ValueError` where the sizes differ, or the picture does not.
    """
    if picture.size != original.size:
        raise ValueError(
            f"original: is {original.width} x {original.height}, must be the picture's "
            f"{picture.width} x {picture.height}"
        )
    bands = ImageChops.difference(picture.convert("RGB"), original.convert("RGB")).split()
    largest = ImageChops.lighter(ImageChops.lighter(bands[0], bands[1]), bands[2])
    if largest.getextrema()[1] <= DIFFERENCE:  # pyright: ignore[reportOperatorIssue]
        raise ValueError(f"original: the picture nowhere differs from it by more than {DIFFERENCE} of 255")
    return grow(_above(largest, DIFFERENCE), growth)


def grow(mask: Image.Image, growth: float = GROWTH) -> Image.Image:
    """A mask of 0 and 255, larger on every side by `growth` of the shorter side: 0 for none, else at least a pixel."""
    pixels = min(_WIDEST_GROWTH, max(1, round(growth * min(mask.size)))) if growth else 0
    # What MaxFilter(2 pixels + 1) gives, in time that does not depend on it: a mean above 0 is a maximum above 0.
    for radius in ((pixels, 0), (0, pixels)):
        mask = _above(mask.filter(ImageFilter.BoxBlur(radius)), 0)
    return mask


def _above(image: Image.Image, level: int) -> Image.Image:
    """255 where a grey image is above a level, else 0."""
    return image.point([0] * (level + 1) + [255] * (255 - level))


def composite(
    picture: Image.Image, patch: Image.Image, at: tuple[int, int], scale: float = 1.0
) -> tuple[Image.Image, Image.Image]:
    """A patch pasted on a picture: (1 - a) picture + a patch where the patch's alpha is a.

    **Arguments:**

    - `picture`: of mode "RGB" or "L".
    - `patch`: of mode "RGBA"; `scale`, above 0, resizes it first.
    - `at`: the pixel (x, y) of the patch's top left corner, from the picture's; it may hang over the edge.

    **Returns:** the composite, and the mask of the pixels that the patch covers (alpha above 0).

    **Raises:** `ValueError` for a scale outside its range, or where the patch covers nothing.
    """
    if not (0.0 < scale < math.inf and max(patch.size) * scale <= 2**15):
        raise ValueError(f"scale={scale}: must be above 0, and the patch at most {2**15} pixels wide and high")
    if scale != 1.0:
        size = (max(1, round(patch.width * scale)), max(1, round(patch.height * scale)))
        # Of Pillow's filters the sharpest without ringing, which would brighten the patch along its cut edge.
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
