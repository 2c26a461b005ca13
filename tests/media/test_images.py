"""Pictures of any kind are read, results have the size of the picture, and files are written whole or not at all."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from sdejax.media.images import (
    Placement,
    contact_sheet,
    open_image,
    open_mask,
    save_png,
    to_array,
    to_bytes,
    to_image,
    write_atomically,
)


def test_every_byte_survives_the_round_trip():
    # Rejects scalings by 128 or 255, truncation instead of rounding, and a range of [0, 1].
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    array = to_array(levels)
    assert array.min() == -1.0
    assert array.max() == 1.0
    np.testing.assert_array_equal(to_bytes(array), levels)


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"^images: .*NaN"):
        to_bytes(np.array([np.nan]))


def test_transparent_pixels_become_white(tmp_path):
    # Rejects a bare convert("RGB"), which shows the hidden colour of transparent pixels.
    picture = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    picture.putpixel((1, 1), (0, 0, 255, 255))
    picture.save(tmp_path / "a.png")
    opened = open_image(tmp_path / "a.png")
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((1, 1)) == (0, 0, 255)


def test_a_transparent_palette_colour_becomes_white(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "p.png", transparency=0)
    opened = open_image(tmp_path / "p.png")
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((1, 0)) == (0, 255, 0)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    # Pillow's own conversion of 16-bit grey clips at 255, which turns a half-grey picture white.
    Image.fromarray(np.full((4, 4), 32768, np.uint16)).save(tmp_path / "d.png")
    assert open_image(tmp_path / "d.png").getpixel((0, 0)) == (128, 128, 128)


def test_a_dark_sixteen_bit_picture_stays_dark(tmp_path):
    # Rejects a depth that is guessed from the brightest value: 200 of 65535 is black, not light grey.
    Image.fromarray(np.full((4, 4), 200, np.uint16)).save(tmp_path / "dark.png")
    assert open_image(tmp_path / "dark.png").getpixel((0, 0)) == (1, 1, 1)


def test_a_rotated_photo_is_turned_upright(tmp_path):
    picture = Image.new("RGB", (6, 2), "white")
    picture.putpixel((0, 0), (255, 0, 0))
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was turned; the picture must be rotated by 90 degrees clockwise
    picture.save(tmp_path / "r.png", exif=exif)
    opened = open_image(tmp_path / "r.png")
    assert opened.size == (2, 6)
    assert opened.getpixel((1, 0)) == (255, 0, 0)


@pytest.mark.parametrize("how", ["missing", "text", "cut"])
def test_a_bad_file_is_named(tmp_path, how):
    path = tmp_path / "bad.png"
    if how == "text":
        path.write_text("no image")
    if how == "cut":
        buffer = io.BytesIO()
        Image.effect_noise((64, 64), 50).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue()[:1500])
    with pytest.raises(ValueError, match=r"bad\.png"):
        open_image(path)


@pytest.mark.parametrize("size", [(32, 32), (100, 40), (17, 90), (512, 512), (5, 3)])
def test_a_placement_returns_to_the_picture_size_and_place(size):
    # A smooth picture comes back, apart from the resampling. Rejects swapped width and height, and a wrong offset.
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([np.cos(2 * y / height), np.sin(2 * x / width), (x + y) / (width + height)], -1)
    placement = Placement.of(size, (32, 32, 3))
    back = placement.from_model(placement.to_model(picture.astype(np.float32)))
    assert back.shape == picture.shape
    assert np.abs(back - picture).mean() < 0.1
    assert placement.exact == (size == (32, 32))


def test_a_picture_of_the_model_size_is_not_resampled():
    picture = np.random.default_rng(0).uniform(-1, 1, (32, 32, 3)).astype(np.float32)
    placement = Placement.of((32, 32), (32, 32, 3))
    np.testing.assert_array_equal(placement.to_model(picture), picture)
    np.testing.assert_array_equal(placement.from_model(picture), picture)


def test_a_mask_edits_where_it_is_white_and_keeps_where_it_is_transparent(tmp_path):
    mask = Image.new("LA", (3, 1), (255, 255))
    mask.putpixel((1, 0), (0, 255))
    mask.putpixel((2, 0), (255, 0))
    mask.save(tmp_path / "m.png")
    np.testing.assert_array_equal(open_mask(tmp_path / "m.png", (3, 1))[0, :, 0], [1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"^mask=.*m\.png': is 3 x 1, must be the image's 4 x 1"):
        open_mask(tmp_path / "m.png", (4, 1))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "x.bin"
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x.bin"]


def test_a_sheet_shows_every_image_in_reading_order(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = contact_sheet([Image.new("RGB", (8, 8), c) for c in colours], columns=2, scale=1, gap=2)
    assert [sheet.getpixel(at) for at in ((5, 5), (15, 5), (5, 15))] == colours
    save_png(tmp_path / "s.png", sheet)
    assert Image.open(tmp_path / "s.png").size == sheet.size


def test_grey_images_have_one_channel():
    assert to_image(np.zeros((2, 2, 1), np.float32)).mode == "L"
