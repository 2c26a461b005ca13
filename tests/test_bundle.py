"""A run made into a snapshot to hand out: what it shows is true of the weights it holds."""

import dataclasses

import jax
import numpy as np
import pytest

from sdejax.checkpoint import load_snapshot
from sdejax.config import load_config
from sdejax.images import to_array
from tests.train_run import EMOJI, finish, start, write_config
from train.bundle import bundle, main, nearest_training_images
from train.data import load
from train.setup import set_up


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The config of a finished run of 4 steps, whose held-out images are its training images."""
    folder = tmp_path_factory.mktemp("run")
    path = write_config(folder, "run")
    finish(start(path, "--steps", "4", "--validation", str(EMOJI)))
    return dataclasses.replace(load_config(path), steps=4, validation=str(EMOJI))


def test_the_nearest_training_image_and_how_far_it_is(run):
    """A training image brighter by 0.01 is 0.01 from itself, and held-out images that are training images 0.

    1e-4: squared distances by the expanded square, in float32. Rejects a sum for the mean (a hundred times as much),
    the mean of squares without its root (0.0001), and the nearest under another metric, such as the product alone
    (which finds the image of largest norm).
    """
    setup = set_up(run)
    training = to_array(load(setup.images, range(len(setup.images.names)), setup.model.shape, run.crop))
    nearest = nearest_training_images(setup, training + np.float32(0.01))
    np.testing.assert_array_equal(nearest.images, training)
    np.testing.assert_allclose(nearest.distances, 0.01, rtol=1e-4)
    np.testing.assert_allclose(nearest.held_out, 0.0, atol=1e-7)


def test_the_bundle_holds_the_average_and_tells_its_loss(run, tmp_path):
    """Its weights are the run's average in half precision, and its card has the loss that these weights have.

    2^-11 relative is half precision's rounding. Rejects the raw weights instead of their average (differs by a step's
    size, 1e-3 of a weight and more), and a card written from other weights than those in the folder.
    """
    out = tmp_path / "bundle"
    bundle(run, out, licence="a licence", note="a note")
    model, average = load_snapshot(out), load_snapshot(run.folder / "snapshot")
    for a, b in zip(jax.tree.leaves(model.params), jax.tree.leaves(average.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=2**-11, atol=2**-24)
    card = (out / "README.md").read_text(encoding="utf-8")
    validation = set_up(run).validation()
    for level, loss in validation.loss(model.params).items():
        assert f"| {level} | {loss:.5f} |" in card
    assert "| Licence | a licence |" in card
    assert "| Note | a note |" in card
    assert "| Steps | 4 of 8 images |" in card
    for picture in ("samples", "nearest", "curves"):
        assert (out / f"{picture}.png").is_file()
        assert f"]({picture}.png)" in card


def test_a_run_that_has_not_begun_is_refused(tmp_path, monkeypatch, capsys):
    """One sentence, exit code 2, and no folder."""
    config = write_config(tmp_path, "none")
    monkeypatch.setattr("sys.argv", ["train.bundle", str(config), str(tmp_path / "out")])
    assert main() == 2
    said = capsys.readouterr().err
    assert said.startswith("error: out=")
    assert "train first" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
