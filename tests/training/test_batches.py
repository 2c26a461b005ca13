"""A batch depends on its position and the seed, but not on processes, threads, workers or undecodable images."""

import contextlib
import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import sdejax.training.data.batches
from sdejax.training.data.batches import Undecodable, batches, decode, load
from sdejax.training.data.sources import open_images

EMOJI = Path(__file__).parents[1] / "emoji"
SHAPE = (16, 12, 3)


def _draw(images, count, *, batch=4, seed=0, **options):
    """Draw `count` batches and join their rows. The tokens are the indexes of the images."""
    tokens = np.arange(len(images.names))[:, None]
    stream = batches(images, SHAPE, tokens, batch=batch, seed=seed, **options)
    drawn = [next(stream) for _ in range(count)]
    stream.close()
    return {key: np.concatenate([one[key] for one in drawn]) for key in drawn[0]}


def _assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])


@pytest.fixture(scope="module")
def emoji():
    return open_images(EMOJI, captioned=True)


@pytest.fixture
def damaged(tmp_path):
    """The 12 emoji, with image 3 cut short, 7 and 8 replaced by text, and the last one emptied."""
    shutil.copytree(EMOJI, tmp_path / "damaged")
    files = sorted((tmp_path / "damaged").glob("*.png"))
    files[3].write_bytes(files[3].read_bytes()[:-200])
    for index in (7, 8):
        files[index].write_text("no image")
    files[11].write_bytes(b"")
    return open_images(tmp_path / "damaged")


def _png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


class _One:
    """A set of one image."""

    names = ("one",)
    captions = ("",)
    classes = ("",)

    def __init__(self, array):
        self.data = _png(array)

    def read(self, index):
        return self.data


def test_a_batch_is_its_position(emoji):
    # Rejects a resumed run that starts the epoch again, and one that counts its position in batches. Positions count
    # images, so batches of any size give the same images at positions 20 to 44.
    whole = _draw(emoji, 11, flip=True, crop="random")
    for start, batch, count in ((20, 4, 6), (20, 6, 4), (17, 3, 9)):
        resumed = _draw(emoji, count, batch=batch, start=start, flip=True, crop="random")
        _assert_same({key: rows[start:44] for key, rows in whole.items()}, resumed)


def test_a_position_may_be_far(emoji):
    # This is a run of a billion steps of 4096 images. Rejects positions of 31 or 32 bits, and a list of all earlier
    # positions.
    far = 2**42 + 8
    drawn = _draw(emoji, 6, start=far)["tokens"]
    np.testing.assert_array_equal(drawn, _draw(emoji, 7, start=far - 4)["tokens"][4:])
    for bits in (31, 32):
        assert (drawn != _draw(emoji, 6, start=far % 2**bits)["tokens"]).any()


def test_each_epoch_is_another_permutation(emoji):
    # With 12 images and batches of 4, an epoch is three batches. Rejects sampling with replacement, and the same order
    # in all epochs.
    epochs = _draw(emoji, 12)["tokens"].reshape(4, 12)
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert (_draw(emoji, 12, seed=1)["tokens"].reshape(4, 12) != epochs).any()


def test_permutations_are_uniform(emoji):
    # In 600 epochs each image should be first 50 times, and second 50 times. Chi-square with 11 degrees of freedom is
    # above 40 once in 25000. Rejects epochs that share a part of their order. The difference of neighbouring indexes
    # modulo 12 should take each of its 11 values 600 times. Rejects rotations of one order.
    epochs = _draw(emoji, 100, batch=72)["tokens"].reshape(600, 12)
    for place in (0, 1):
        counts = np.bincount(epochs[:, place], minlength=12)
        assert (np.square(counts - 50.0) / 50.0).sum() < 40.0
    steps = np.bincount((np.diff(epochs) % 12).ravel(), minlength=12)
    assert (np.square(steps[1:] - 600.0) / 600.0).sum() < 40.0


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_one_batch(emoji, processes):
    # Rejects a data set that is split by process (another order), rows that are dealt in turn, and augmentations that
    # depend on the local row.
    settings = {"batch": 8, "flip": True, "crop": "random", "start": 5}
    whole = _draw(emoji, 6, **settings)
    parts = [_draw(emoji, 6, process=p, processes=processes, **settings) for p in range(processes)]
    rows = 8 // processes
    for key, joined in whole.items():
        stacked = np.stack([part[key].reshape(6, rows, *joined.shape[1:]) for part in parts], axis=1)
        np.testing.assert_array_equal(stacked.reshape(joined.shape), joined)


def test_threads_and_workers_change_nothing(damaged):
    # Rejects batches in the order in which they are finished, and rows that are dealt out to workers.
    settings = {"flip": True, "crop": "random", "start": 7}
    one = _draw(damaged, 9, threads=1, **settings)
    _assert_same(one, _draw(damaged, 9, threads=4, **settings))
    _assert_same(one, _draw(damaged, 9, threads=2, workers=2, **settings))
    assert (one["undecodable"] >= 0).any()


def test_workers_outlive_the_signals_that_ask_a_run_to_stop(emoji):
    # A terminal or a job scheduler sends them to every process, but the run still has to finish its steps.
    expected = _draw(emoji, 30)
    tokens = np.arange(12)[:, None]
    stream = batches(emoji, SHAPE, tokens, batch=4, seed=0, threads=1, workers=1)
    drawn = [next(stream)]
    (worker,) = multiprocessing.active_children()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    drawn += [next(stream) for _ in range(29)]
    stream.close()
    np.testing.assert_array_equal(np.concatenate([one["tokens"] for one in drawn]), expected["tokens"])
    assert not worker.is_alive()


def test_workers_do_not_outlive_the_run(tmp_path):
    # A killed run cannot tell its workers to end. They would keep its standard output open, and this test would wait.
    code = (
        "import os, sys\n"
        "from sdejax.training.data.batches import batches\n"
        "from sdejax.training.data.sources import open_images\n"
        "if __name__ == '__main__':\n"
        "    stream = batches(open_images(sys.argv[1]), (8, 8, 3), None, batch=4, seed=0, workers=1)\n"
        "    next(stream)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    (tmp_path / "run.py").write_text(code)
    root = {**os.environ, "PYTHONPATH": str(EMOJI.parents[1])}
    command = [sys.executable, str(tmp_path / "run.py"), str(EMOJI)]
    done = subprocess.run(command, capture_output=True, env=root, timeout=60, check=False)
    assert done.returncode == -9, done.stderr.decode()


def test_images_kept_in_memory_change_nothing(damaged, monkeypatch):
    # Rejects a mirrored image or a replacement that is kept as the image itself.
    kept = _draw(damaged, 12, flip=True)
    monkeypatch.setattr(sdejax.training.data.batches, "_CACHE_BYTES", 0)
    _assert_same(kept, _draw(damaged, 12, flip=True))


def _draw_one(array, shape, count, **options):
    """Draw the first `count` positions of a set of one image."""
    stream = batches(_One(array), shape, None, batch=50, **options)
    drawn = [next(stream)["image"] for _ in range(count // 50)]
    stream.close()
    return np.concatenate(drawn)


def _signs(seed):
    """1 for each position whose image is mirrored, else -1."""
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:, :2] = 255
    return np.where(_draw_one(picture, (4, 4, 3), 2500, seed=seed, flip=True)[:, 0, 0, 0] == 0, 1, -1)


def test_half_of_the_images_are_mirrored():
    # The sum of 2500 independent signs is 0 with a standard deviation of 50. The sum itself rejects other rates, and a
    # flip that is fixed per image. The sums of products reject flips in turn (lag 1 and 2), batches that flip together
    # (lag 1), flips that repeat with the batch (lag 50), and flips that are the same for all seeds.
    signs = _signs(0)
    for total in (signs.sum(), *((signs[n:] * signs[:-n]).sum() for n in (1, 2, 50)), (signs * _signs(1)).sum()):
        assert abs(total) < 4 * 50


def test_mirrored_images_are_their_mirror_image(emoji):
    plain, flipped = _draw(emoji, 6), _draw(emoji, 6, flip=True)
    np.testing.assert_array_equal(plain["tokens"], flipped["tokens"])
    for one, other in zip(plain["image"], flipped["image"], strict=True):
        assert (one == other).all() or (one[:, ::-1] == other).all()


@pytest.mark.parametrize("across", [True, False])
def test_random_crops_are_uniform_over_the_offsets(across):
    # A window of 4 x 4 in 9 x 4 pixels has six offsets, so each should occur 300 times. Chi-square with 5 degrees of
    # freedom is above 27 once in 20000. Rejects offsets that leave out an end, rounding that halves the share of the
    # ends (chi-square 120), and resampling between pixels.
    wide = np.tile(np.arange(9, dtype=np.uint8) * 20, (4, 1))
    picture = wide if across else wide.T
    cropped = _draw_one(picture, (4, 4, 1), 1800, seed=0, crop="random")[..., 0]
    offsets = cropped[:, 0, 0] // 20
    for offset in range(6):
        window = picture[:, offset : offset + 4] if across else picture[offset : offset + 4]
        assert (cropped[offsets == offset] == window).all()
    counts = np.bincount(offsets, minlength=6)
    assert (np.square(counts - 300.0) / 300.0).sum() < 27.0


def test_mirroring_and_crops_are_independent():
    # The offsets 0 to 5 have the variance 35/12. So the sum of offset times sign over 1800 positions is 0 with a
    # standard deviation of 72. Rejects one random number for both.
    wide = np.tile(np.arange(9, dtype=np.uint8) * 20, (4, 1))
    row = _draw_one(wide, (4, 4, 1), 1800, seed=0, crop="random", flip=True)[:, 0, :, 0].astype(int)
    signs = np.sign(row[:, 1] - row[:, 0])
    assert abs((signs * (row.min(axis=1) / 20 - 2.5)).sum()) < 4 * 72


@pytest.mark.parametrize("size", [(97, 33), (33, 97), (640, 481), (64, 64), (7, 1001), (1, 1)])
@pytest.mark.parametrize("shape", [(32, 32, 3), (20, 33, 3), (3, 1, 3)])
def test_any_size_is_cropped_to_any_shape(size, shape):
    # A constant picture stays constant. Rejects windows that extend beyond the image, which Pillow may also refuse.
    data = _png(np.full((size[1], size[0], 3), 77, np.uint8))
    for crop in ("center", "random", "stretch"):
        for at in ((0.0, 0.0), (0.5, 0.5), (1.0 - 2**-53,) * 2):
            assert (decode(data, shape, crop, at) == 77).all()


def test_center_cuts_off_the_sides_and_stretch_keeps_them():
    # The picture is a quarter red, a half green and a quarter blue, so the ends of a row show what was cut off. Rejects
    # one crop instead of the other, a crop from the corner, and swapped height and width.
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:, :32, 0] = picture[:, 32:96, 1] = picture[:, 96:, 2] = 255
    for turned in (False, True):
        data = _png(picture.transpose(1, 0, 2) if turned else picture)
        drawn = [decode(data, (16, 16, 3), crop) for crop in ("center", "stretch")]
        center, line = (image[:, 8] if turned else image[8] for image in drawn)
        assert (center[2:14, 1] > 250).all()
        assert (line[:3, 0] > 250).all()
        assert (line[5:11, 1] > 250).all()
        assert (line[13:, 2] > 250).all()


def _jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def _scene(size):
    """A photo-like picture: a colour gradient with fine waves and sharp ellipses."""
    down, across = np.mgrid[0 : size[1], 0 : size[0]]
    slope = np.stack([255 * across / size[0], 255 * down / size[1], 128 + 127 * np.sin(across / 9.0 + down / 7.0)], -1)
    image = Image.fromarray(slope.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for i in range(12):
        corner = (size[0] * i // 12, size[1] * (i * 5 % 12) // 12)
        draw.ellipse([*corner, corner[0] + size[0] // 6, corner[1] + size[1] // 8], fill=(20 * i, 255 - 20 * i, 90))
    return image


def test_a_large_jpeg_is_reduced_while_it_is_decoded_without_harm():
    # The mean difference to a reduction of the fully decoded image is 0.3 of 255 levels. If the decoder reduces it to
    # twice the final size instead of three times, it is 1.3. With a window that is wrong by a pixel it is above 5.
    image = _scene((1600, 1200))
    data = _jpeg(image)
    with Image.open(io.BytesIO(data)) as opened:
        whole = np.asarray(opened.crop((200, 0, 1400, 1200)).resize((64, 64), Image.Resampling.LANCZOS), float)
    assert np.abs(decode(data, (64, 64, 3)) - whole).mean() < 0.6


def test_pictures_are_turned_upright_put_on_white_and_reduced_to_8_bits():
    # With orientation 6, the left side of the stored picture is the top. Rejects a window in the stored orientation.
    stored = np.zeros((32, 96, 3), np.uint8)
    stored[:, :48] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = decode(_jpeg(Image.fromarray(stored), exif=exif), (48, 16, 3))
    assert upright[:22].min() > 240
    assert upright[26:].max() < 15
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    buffer = io.BytesIO()
    clear.save(buffer, "PNG")
    assert (decode(buffer.getvalue(), (4, 4, 3)) == 255).all()
    assert (decode(_png(np.full((4, 4), 32768, np.uint16)), (4, 4, 1)) == 128).all()


def test_captions_belong_to_their_images(emoji):
    red = emoji.captions.index("red heart")
    drawn = _draw(emoji, 3)
    pixel = drawn["image"][drawn["tokens"][:, 0] == red][0, 8, 6].astype(int)
    assert pixel[0] > 180 > pixel[2]


def test_the_next_image_replaces_one_that_cannot_be_decoded(emoji, damaged):
    # The replacement is the next image that can be decoded, with its own tokens; the first image follows the last. All
    # other rows stay as they are. Rejects images that are left out, which shifts all later positions.
    whole, patched = _draw(emoji, 12, flip=True), _draw(damaged, 12, flip=True)
    drawn = whole["tokens"][:, 0]
    replacement = np.array([0, 1, 2, 4, 4, 5, 6, 9, 9, 9, 10, 0])
    np.testing.assert_array_equal(patched["tokens"][:, 0], replacement[drawn])
    np.testing.assert_array_equal(patched["undecodable"], np.where(replacement[drawn] == drawn, -1, drawn))
    np.testing.assert_array_equal(whole["undecodable"], -1)
    fine = patched["undecodable"] < 0
    np.testing.assert_array_equal(patched["image"][fine], whole["image"][fine])
    expected = load(emoji, replacement[drawn], SHAPE)
    same = (patched["image"] == expected).all(axis=(1, 2, 3))
    assert (same | (patched["image"][:, :, ::-1] == expected).all(axis=(1, 2, 3))).all()
    np.testing.assert_array_equal(load(damaged, range(12), SHAPE), load(emoji, replacement, SHAPE))


def test_an_undecodable_image_is_named_and_counted_once(damaged):
    undecodable = Undecodable(damaged)
    drawn = _draw(damaged, 9)["undecodable"]  # three epochs
    bad = [damaged.names[index] for index in (3, 7, 8, 11)]
    assert sorted(name for part in np.split(drawn, 9) for name in undecodable.note(part)) == bad
    assert undecodable.note(drawn) == []
    assert undecodable.count == 4
    assert undecodable.names == bad
    assert undecodable.exceeds(0.33)
    assert not undecodable.exceeds(4 / 12)
    assert undecodable.message() == "\n  ".join(["4 of 12 images (33.33%) cannot be decoded:", *bad])
    resumed = Undecodable(damaged, undecodable.indexes)
    assert resumed.note(drawn) == []
    assert resumed.names == bad


def test_a_set_without_a_decodable_image_is_an_error(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no image")
    with pytest.raises(ValueError, match=r"^data: 2 images .*'[ab].png'"):
        next(batches(open_images(tmp_path), SHAPE, None, batch=2, seed=0))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_a_damaged_file_is_a_value_error_whatever_pillow_raises():
    # Up to three bytes at the beginning of a file are changed, and a fifth of the files lose their end. Pillow raises
    # five kinds of errors, among them SyntaxError and, if a header says that the image is huge, DecompressionBombError.
    random = np.random.default_rng(0)
    for kind in ("PNG", "BMP"):
        buffer = io.BytesIO()
        _scene((24, 16)).save(buffer, kind)
        for number in range(600):
            data = bytearray(buffer.getvalue())
            for _ in range(random.integers(1, 4)):
                data[random.integers(200)] = random.integers(256)
            if number % 5 == 0:
                data = data[: random.integers(len(data))]
            with contextlib.suppress(ValueError):
                decode(bytes(data), (8, 8, 3))


def test_a_batch_must_divide_over_the_processes(emoji):
    with pytest.raises(ValueError, match=r"^batch=6: .*4$"):
        batches(emoji, SHAPE, None, batch=6, seed=0, processes=4)
