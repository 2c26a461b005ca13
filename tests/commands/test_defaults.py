"""The library and the command line agree: by default a seed is the same picture in both."""

import numpy as np
import pytest
from PIL import Image

import sdejax as sj
from sdejax.commands.main import main
from sdejax.media.images import open_image, to_array, to_image
from sdejax.model.snapshot import save
from tests.commands.words import words
from tests.tiny import tiny_model

SEED = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny snapshot, a picture of its size, and a mask with grey values."""
    top = tmp_path_factory.mktemp("defaults")
    save(top / "model", tiny_model())
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(top / "image.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 2:5], mask[:, 5:] = 128, 255
    Image.fromarray(mask).save(top / "mask.png")
    return top


def by_command(place, tmp_path, line):
    """The picture that a command writes for `SEED`; @ begins the name of a file of `place`."""
    assert main([*words(place, line), "--seeds", str(SEED), "--out", str(tmp_path)]) == 0
    return np.asarray(Image.open(tmp_path / f"{SEED:06d}.png"))


def check(picture, images):
    """The picture is the only one of `images`, and neither black nor white."""
    (image,) = np.asarray(images)
    np.testing.assert_array_equal(picture, np.asarray(to_image(image)))
    assert np.ptp(picture) > 100


@pytest.mark.parametrize("prompt", ["", "heart"])
def test_sample(place, tmp_path, prompt):
    model = sj.load(place / "model")
    picture = by_command(place, tmp_path, "sample @model" + f" --prompt {prompt}" * bool(prompt))
    check(picture, sj.sample(model.denoiser(prompt), model.sde, sj.keys([SEED]), model.shape))


@pytest.mark.parametrize("masked", [False, True])
def test_edit(place, tmp_path, masked):
    model, image = sj.load(place / "model"), to_array(open_image(place / "image.png"))[None]
    mask = np.asarray(Image.open(place / "mask.png"))[None] / np.float32(255) if masked else None
    picture = by_command(place, tmp_path, "edit @model @image.png" + " --mask @mask.png" * masked)
    check(picture, sj.sdedit(model.denoiser(), model.sde, image, sj.keys([SEED]), mask=mask))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "edit"),
    [
        ("", sj.sync_sde),
        ("flow_edit", sj.flow_edit),
        ("edit_friendly_inversion", sj.edit_friendly_inversion),
        ("fire_flow", sj.fire_flow),
    ],
)
def test_sync(place, tmp_path, method, edit):
    model, image = sj.load(place / "model"), to_array(open_image(place / "image.png"))[None]
    line = "sync @model @image.png --source red --target blue" + f" --method {method}" * bool(method)
    source, target = model.denoiser("red"), model.denoiser("blue")
    picture = by_command(place, tmp_path, line)
    check(picture, edit(source, target, model.sde, image, sj.keys([SEED])))
    assert np.abs(picture.astype(int) - np.asarray(open_image(place / "image.png"))).max() > 5
