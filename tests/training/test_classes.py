"""Class-conditional training from a folder per class, and what becomes of the model: snapshots, samples, other runs."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import sdejax as sj
from sdejax.commands.main import main
from sdejax.media.images import to_array
from sdejax.model.conditioners import ClassLabels
from sdejax.model.model import Model
from sdejax.model.networks import FlaxNetwork
from sdejax.nn.params import to_names
from sdejax.training.config import Config, load_config
from sdejax.training.objective import Objective
from sdejax.training.optimiser import OptimiserConfig
from sdejax.training.setup import set_up
from sdejax.training.step import init_state, make_train_step
from tests.tiny import parameters
from tests.train_run import finish, rows, start

COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 40, 40)}
CONFIG = """
from sdejax.training.config import Config, OptimiserConfig
from sdejax.nn.ncsnpp.config import NCSNppConfig

def get_config():
    network = NCSNppConfig(shape=(8, 8, 3), channels=16, multipliers=(1,), blocks=1, attention=(), dropout=0.0)
    return Config(name="colours", data={data!r}, validation={data!r}, classes=True, out={out!r}, network=network,
                  batch=24, steps=150, ema=(0.95,),
                  optimiser=OptimiserConfig(learning_rate=1e-2, warmup=10),
                  log_every=50, validate_every=150, sample_every=150, checkpoint_every=150)
"""


def write_folders(folder, colours=COLOURS, count=8):
    """A folder per class with images of one colour, each a little darker or brighter than the others."""
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((8, 8, 3), colour, np.int64) + 4 * (number - count // 2)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def nearest(image):
    """The class whose colour is nearest to the mean of an image in [-1, 1]."""
    mean = np.asarray(image).reshape(-1, 3).mean(0)
    return min(COLOURS, key=lambda name: np.square(mean - to_array(np.asarray(COLOURS[name]))).sum())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(the config file, the folder of a finished run)."""
    folder = tmp_path_factory.mktemp("colours")
    config = folder / "colours.py"
    config.write_text(CONFIG.format(data=str(write_folders(folder / "data")), out=str(folder / "run")))
    finish(start(config))
    return config, folder / "run"


@jax.jit
def call(denoiser, t, x):
    return denoiser(t, x)


@pytest.mark.slow
def test_the_denoiser_tells_the_classes_apart(trained):
    """From noise in which nothing of an image is left, each class becomes its colour.

    Rejects classes that are not told to the network (all become grey), or told by another number.
    """
    model = sj.load(trained[1] / "snapshot")
    assert model.conditioner == ClassLabels(("blue", "green", "red"))
    assert model.config.classes == 4  # and one for no class
    t = model.sde.time(jnp.float32(20.0**2))
    noise = model.sde.sigma(t) * jax.random.normal(jax.random.key(0), (6, *model.shape))
    for number, name in enumerate(COLOURS):
        for prompt in (name, str(number)):
            assert {nearest(image) for image in call(model.denoiser(prompt), t, noise)} == {name}
    each = call(model.denoiser(["red", "blue", "green", "green", "blue", "red"]), t, noise)
    assert [nearest(image) for image in each] == ["red", "blue", "green", "green", "blue", "red"]


@pytest.mark.parametrize(("dropout", "trained_rows"), [(0.0, [0, 2]), (1.0, [3])])
def test_a_step_trains_the_classes_of_its_images_and_hidden_ones_as_no_class(dropout, trained_rows):
    """Adam leaves a row of the table of classes as it is, bit for bit, if no image of the batch has that class.

    Rejects hidden classes that become another class, and classes that are told in another order than the images.
    """
    model, optimiser = tiny_classes(), optax.adam(1e-2)
    step = make_train_step(model, Objective(caption_dropout=dropout), optimiser, 0.9, seed=0)
    images = np.random.default_rng(0).integers(0, 256, (4, *model.shape), np.uint8)
    before = np.asarray(to_names(model.params)["classes.embedding"])
    state, _ = step(
        init_state(model.params, optimiser), images, model.conditioner.encode(["blue", "red", "red", "blue"])
    )
    after = np.asarray(to_names(state.params)["classes.embedding"])
    assert np.flatnonzero((after != before).any(1)).tolist() == trained_rows


def tiny_classes():
    config = sj.NCSNppConfig(shape=(8, 8, 3), channels=8, multipliers=(1,), blocks=1, attention=(), classes=4)
    network = FlaxNetwork(config, parameters(config))
    return Model(network, sj.VPSDE(), conditioner=ClassLabels(tuple(COLOURS)))


@pytest.mark.parametrize(("prompt", "name"), [("red", "red"), ("1", "green")])
def test_the_command_samples_a_class(trained, tmp_path, prompt, name):
    words = ["--prompt", prompt, "--seeds", "0-3", "--steps", "8", "--out", str(tmp_path / "out")]
    assert main(["sample", str(trained[1] / "snapshot"), *words]) == 0
    for seed in range(4):
        image = Image.open(tmp_path / "out" / f"{seed:06d}.png")
        assert nearest(to_array(np.asarray(image.convert("RGB")))) == name


def test_the_command_names_a_class_that_there_is_not(trained, tmp_path, capsys):
    words = ["--prompt", "purple", "--out", str(tmp_path / "out")]
    assert main(["sample", str(trained[1] / "snapshot"), *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "prompt='purple'" in said and "red" in said
    assert not (tmp_path / "out").exists()


def test_a_run_with_classes_leaves_what_others_do(trained):
    folder = trained[1]
    validated = [row for row in rows(folder) if "validation" in row]
    assert [row["step"] for row in validated] == [150]
    # Told the class, the denoiser has the colour at any noise: without, the mean of three colours is off by 0.3.
    assert validated[0]["validation"]["20.0"] < 0.1
    assert (folder / "samples-0000150.png").is_file()
    about = json.loads((folder / "snapshot" / "model.json").read_text())
    assert about["conditioner"] == {"class": "ClassLabels", "names": ["blue", "green", "red"], "null": True}
    assert load_config(folder / "config.json").classes


def config_of(trained, **changes):
    return dataclasses.replace(load_config(trained[0]), **changes)


def test_a_run_starts_from_a_class_conditional_snapshot(trained, tmp_path):
    """Its classes count: the new images' classes get the numbers that the snapshot has for them."""
    data = write_folders(tmp_path / "data", {"red": COLOURS["red"]}, count=2)
    snapshot = str(trained[1] / "snapshot")
    setup = set_up(config_of(trained, data=str(data), validation="", start=snapshot))
    np.testing.assert_array_equal(setup.conditions, [2, 2])
    assert setup.model.conditioner == ClassLabels(("blue", "green", "red"))
    other = write_folders(tmp_path / "other", {"purple": (120, 0, 120)}, count=1)
    for field in ("data", "validation"):
        with pytest.raises(ValueError, match=f"^{field}={str(other)!r}: .*'purple'"):
            set_up(config_of(trained, **{"data": str(data), "validation": "", "start": snapshot, field: str(other)}))
    with pytest.raises(ValueError, match=r"^start=.*classes=False"):
        set_up(config_of(trained, start=snapshot, classes=False))


def test_captions_and_classes_exclude_each_other():
    with pytest.raises(ValueError, match="captions=True, classes=True"):
        Config("both", "somewhere", captions=True, classes=True, optimiser=OptimiserConfig())
