"""Stroke paintings, the detection of strokes, and composites, tested without a network."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from sdejax.media.guides import STROKE_DIFFERENCE, composite, find_strokes, grow, stroke_painting
from sdejax.media.images import open_patch
from sdejax.media.inputs import open_input, parse_at


def _noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _array(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("size", [(60, 40), (420, 400)])
@pytest.mark.parametrize("colours", [2, 6, 256])
def test_a_painting_has_few_colours_and_the_size(size, colours):
    # The larger picture is reduced first. Rejects an enlargement of the colours themselves, which creates new colours
    # between them.
    painting = stroke_painting(_noise(*size), colours)
    assert painting.size == size
    assert 2 <= len(painting.getcolors(2**20)) <= colours


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (64, 48), (500, 700)])
def test_a_constant_picture_is_its_own_painting(size):
    picture = Image.new("RGB", size, (12, 200, 7))
    np.testing.assert_array_equal(stroke_painting(picture), picture)


@pytest.mark.parametrize("times", [1, 8])
def test_two_halves_are_their_own_painting(times):
    # The median filter leaves a straight border as it is, also if the picture is reduced by a whole number (8 times 60
    # pixels by 8 / 2) and enlarged again. Rejects a filter or an enlargement that shifts by half a pixel.
    picture = Image.new("RGB", (90 * times, 60 * times), (250, 240, 10))
    picture.paste((20, 30, 140), (0, 0, 48 * times, 60 * times))
    np.testing.assert_array_equal(stroke_painting(picture), picture)


@pytest.mark.parametrize("size", [(60, 90), (90, 60)])
def test_a_filter_removes_a_line_thinner_than_half_of_it(size):
    # A line of width 5 fills more than half of a window of width k if 5 > k / 2: width 9 keeps the line, 11 removes it.
    # Rejects a share of the longer side (13 and 17 pixels), and an even or halved width.
    picture = Image.new("RGB", size, "white")
    picture.paste((0, 0, 0), (20, 0, 25, size[1]))
    np.testing.assert_array_equal(stroke_painting(picture, filter=9 / 60), picture)
    assert stroke_painting(picture, filter=11 / 60).getcolors() == [(5400, (255, 255, 255))]


@pytest.mark.parametrize(("colours", "filter"), [(1, 0.1), (257, 0.1), (6, 0.0), (6, 1.5), (6, float("nan"))])
def test_a_value_outside_its_range_is_refused(colours, filter):
    with pytest.raises(ValueError, match=r"colours=|filter="):
        stroke_painting(_noise(8, 8), colours, filter)


def test_the_mask_is_exactly_the_strokes():
    # The stroke differs in one channel only. The noise differs in all channels, by no more than the threshold. Rejects
    # the mean or the sum of the channels, grey levels, and >= instead of >.
    base = np.random.default_rng(0).integers(60, 150, (40, 56, 3))
    painted = base + np.random.default_rng(1).choice([-STROKE_DIFFERENCE, 0, STROKE_DIFFERENCE], base.shape)
    stroke = np.zeros((40, 56), bool)
    stroke[10:13, 5:50] = stroke[20, 30] = True
    painted[stroke] = base[stroke] + [0, 0, STROKE_DIFFERENCE + 1]
    mask = find_strokes(*(Image.fromarray(a.astype(np.uint8)) for a in (painted, base)), growth=0)
    np.testing.assert_array_equal(_array(mask), 255 * stroke)


def test_strokes_are_found_in_a_jpeg():
    # The changes made by saving as JPEG are not strokes.
    base = _noise(16, 12).resize((256, 192), Image.Resampling.BICUBIC)
    painted = base.copy()
    ImageDraw.Draw(painted).rectangle((100, 60, 140, 90), (255, 0, 255))
    buffer = io.BytesIO()
    painted.save(buffer, "JPEG", quality=90)
    found = _array(find_strokes(Image.open(buffer), base, growth=0)) > 0
    inner, outer = (slice(62, 89), slice(102, 139)), (slice(56, 95), slice(96, 145))
    assert found[inner].mean() > 0.95
    found[outer] = False
    assert not found.any()


@pytest.mark.parametrize("pixels", [1, 2, 7])
def test_growing_is_a_maximum_filter(pixels):
    # Rejects a width used as a radius, and a blur in which a single pixel is rounded to 0.
    mask = Image.fromarray(np.where(np.random.default_rng(0).random((60, 90)) < 0.003, 255, 0).astype(np.uint8))
    np.testing.assert_array_equal(grow(mask, pixels / 60), mask.filter(ImageFilter.MaxFilter(2 * pixels + 1)))


def test_growing_scales_with_the_picture():
    for side, by in ((32, 1), (256, 3), (1024, 12)):
        mask = Image.new("L", (2 * side, side))
        mask.putpixel((side, side // 2), 255)
        assert grow(mask).getbbox() == (side - by, side // 2 - by, side + by + 1, side // 2 + by + 1)
        assert grow(mask, 0).getbbox() == (side, side // 2, side + 1, side // 2 + 1)


def test_an_original_that_does_not_differ_is_refused():
    with pytest.raises(ValueError, match=r"^original: "):
        find_strokes(_noise(8, 8), _noise(8, 8))
    with pytest.raises(ValueError, match=r"^original: is 9 x 8, must be the picture's 8 x 8"):
        find_strokes(_noise(8, 8), _noise(9, 8))


@pytest.mark.parametrize("at", [(4, 3), (-5, 2), (17, -6), (-30, -20)])
def test_a_composite_is_a_mixture_by_alpha(at):
    # The tolerance is the rounding, half a grey level. Rejects swapped alpha, a patch at (y, x), and alpha that is
    # applied twice (wrong by up to 64).
    picture, patch = _noise(24, 16), _noise(40, 30, 1).convert("RGBA")
    alpha = np.random.default_rng(2).integers(0, 256, (30, 40), dtype=np.uint8)
    alpha[:, 20:24], alpha[:, 24:30] = 0, 255
    patch.putalpha(Image.fromarray(alpha))
    result, covered = composite(picture, patch, at)
    a, colour = np.zeros((16, 24, 1)), np.zeros((16, 24, 3))
    for y in range(16):
        for x in range(24):
            if 0 <= y - at[1] < 30 and 0 <= x - at[0] < 40:
                a[y, x], colour[y, x] = alpha[y - at[1], x - at[0]] / 255, np.asarray(patch)[y - at[1], x - at[0], :3]
    assert np.abs(_array(result) - ((1 - a) * _array(picture) + a * colour)).max() <= 0.51
    outside = a[..., 0] == 0
    np.testing.assert_array_equal(_array(result)[outside], _array(picture)[outside])
    np.testing.assert_array_equal(_array(covered), np.where(outside, 0, 255))


def test_a_scaled_patch_keeps_its_corner_and_its_transparent_part_stays_hidden():
    # Rejects scaling about the middle, resizing the colours without their alpha (which shows the hidden green), and a
    # filter that rings (Lanczos is wrong by 21).
    patch = Image.new("RGBA", (8, 8), (0, 255, 0, 0))
    patch.paste((200, 0, 0, 255), (0, 0, 4, 8))
    result, covered = composite(Image.new("RGB", (40, 40), (200, 0, 0)), patch, (10, 20), 2.0)
    assert np.abs(_array(result) - [200, 0, 0]).max() <= 2
    left, top, right, bottom = covered.getbbox() or (0, 0, 0, 0)
    assert (left, top, bottom) == (10, 20, 36)
    assert 18 <= right <= 21  # the edge at 8 of 16, softened by the filter


def test_a_patch_that_covers_nothing_is_refused():
    for at in ((24, 0), (0, -8), (-8, 3)):
        with pytest.raises(ValueError, match=f"^at={at[0]},{at[1]}: .*24 x 16"):
            composite(_noise(24, 16), _noise(8, 8).convert("RGBA"), at)
    with pytest.raises(ValueError, match=r"^at=0,0: "):
        composite(_noise(24, 16), Image.new("RGBA", (8, 8)), (0, 0))
    for scale in (0.0, -1.0, float("nan"), float("inf"), 1e6):
        with pytest.raises(ValueError, match=r"^scale="):
            composite(_noise(24, 16), _noise(8, 8).convert("RGBA"), (0, 0), scale)


def test_a_patch_without_alpha_is_a_rectangle(tmp_path):
    for name, picture in {
        "rgb": _noise(5, 4),
        "grey": _noise(5, 4).convert("L"),
        "palette": _noise(5, 4).quantize(),
    }.items():
        picture.save(tmp_path / f"{name}.png")
        assert open_patch(tmp_path / f"{name}.png").getchannel("A").getextrema() == (255, 255)
    Image.fromarray(np.full((4, 5), 32768, np.uint16)).save(tmp_path / "deep.png")
    assert open_patch(tmp_path / "deep.png").getpixel((0, 0)) == (128, 128, 128, 255)


@pytest.fixture
def files(tmp_path):
    picture = _noise(24, 16)
    picture.save(tmp_path / "picture.png")
    picture.paste((255, 0, 0), (2, 2, 8, 8))
    picture.save(tmp_path / "painted.png")
    _noise(6, 6, 1).save(tmp_path / "patch.png")
    Image.new("L", (24, 16)).save(tmp_path / "mask.png")
    return lambda **options: {k: str(tmp_path / v) if str(v).endswith("png") else v for k, v in options.items()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": "mask.png", "original": "picture.png"}, "mask=.*original="),
        ({"paste": "patch.png", "at": "1,1", "original": "picture.png"}, "paste=.*original="),
        ({"at": "3,4"}, "at='3,4': .*paste"),
        ({"scale": 2.0}, r"scale=2\.0: .*paste"),
        ({"paste": "patch.png"}, "paste=.*: .*at"),
        ({"paste": "patch.png", "at": "3;4"}, "at='3;4': must be a pixel"),
        ({"paste": "none.png", "at": "3,4"}, "none.png"),
    ],
)
def test_arguments_that_exclude_each_other(files, options, message):
    with pytest.raises(ValueError, match=message):
        open_input(files(p="painted.png")["p"], (8, 8, 3), **files(**options))


def test_the_pixels_outside_a_patch_are_kept(files):
    # The mask of a patch is its rectangle and the pixel around it. A given mask replaces it.
    given = files(path="painted.png", paste="patch.png", at="9,4")
    found = open_input(shape=(8, 8, 3), **given)
    edited = np.zeros((16, 24), bool)
    edited[3:11, 8:16] = True
    np.testing.assert_array_equal(found.kept, ~edited)
    assert open_input(shape=(8, 8, 3), **given, **files(mask="mask.png")).kept.all()
    assert parse_at(" -3, 12") == (-3, 12)
