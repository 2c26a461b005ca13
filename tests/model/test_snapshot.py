"""Snapshots come back bit for bit, those of format 1 mean what they meant, and damaged ones are named."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

import sdejax as sj
from sdejax.model.conditioners import ClassLabels
from sdejax.model.model import Model
from sdejax.model.networks import NETWORKS, FlaxNetwork
from sdejax.model.snapshot import load_snapshot, save
from sdejax.nn.layers import Conv
from sdejax.nn.params import to_names
from tests.tiny import parameters, tiny_model

FORMAT_1 = Path(__file__).parent / "format1"
ROOT = Path(__file__).parents[2]


@jax.jit
def call(denoiser, t, x):
    return denoiser(t, x)


def of_classes():
    config = sj.NCSNppConfig(shape=(4, 4, 3), channels=4, multipliers=(1,), blocks=1, attention=(), classes=3)
    return Model(FlaxNetwork(config, parameters(config)), sj.RectifiedFlow(), conditioner=ClassLabels(("cat", "dog")))


MODELS = {
    "text": lambda: tiny_model(sde=sj.VESDE(sigma_max=20.0)),
    "classes": of_classes,
    "no prompts": lambda: tiny_model(
        sj.NCSNppConfig(shape=(4, 4, 3), channels=4, multipliers=(1,), blocks=1, attention=()),
        sj.DiscreteVPSDE((0.1, 0.2, 0.3)),
        sj.Parametrisation(sj.PredictScore(), sj.LevelLabel(3), sj.UnitRange(False)),
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def snapshot(request, tmp_path_factory):
    """(folder, the model that was saved in it)."""
    folder, model = tmp_path_factory.mktemp("snapshot") / "tiny", MODELS[request.param]()
    save(folder, model)
    return folder, model


@pytest.fixture
def copy(tmp_path):
    """A snapshot that a test may damage."""
    save(tmp_path / "copy", of_classes())
    return tmp_path / "copy"


def test_a_snapshot_comes_back_bit_for_bit(snapshot):
    folder, model = snapshot
    loaded = load_snapshot(folder)
    for part in ("config", "sde", "parametrisation", "conditioner", "codec", "shape"):
        assert getattr(loaded, part) == getattr(model, part)
    assert jax.tree.structure(loaded.params) == jax.tree.structure(model.params)
    for a, b in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(model.params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert re.fullmatch("sha256:[0-9a-f]{64}", loaded.source)


def test_what_is_saved_again_is_the_same_file(snapshot, tmp_path):
    folder, _ = snapshot
    save(tmp_path / "again", load_snapshot(folder))
    for file in ("model.json", "params.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()


def test_half_precision_is_within_its_rounding(tmp_path):
    model = tiny_model()
    save(tmp_path / "half", model, dtype="float16")
    loaded = load_snapshot(tmp_path / "half").params
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(model.params), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=2**-11, atol=1e-6)
    with pytest.raises(ValueError, match="dtype='int8': must be"):
        save(tmp_path / "int8", model, dtype="int8")
    assert not (tmp_path / "int8").exists()


@pytest.mark.parametrize("name", ["velocity", "unit_range", "text"])
def test_a_snapshot_of_format_1_gives_what_it_gave(name):
    """The folders hold what commit 922db65, the last one that wrote format 1, wrote and computed.

    1e-5 relative, for another version of XLA. Rejects the field's velocity for e - x0 under VP, images in [-1, 1] for
    [0, 1], and EDM's data_std at its default, by 1e-2 and more.
    """
    model, said = load_snapshot(FORMAT_1 / name), np.load(FORMAT_1 / name / "outputs.npz")
    assert json.loads((FORMAT_1 / name / "model.json").read_text())["format"] == 1
    denoiser = model.denoiser("blue heart" if name == "text" else None)
    for t, expected in zip(said["times"], said["denoised"], strict=True):
        found = np.asarray(call(denoiser, t, said["x"]))
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_snapshot_of_format_1_is_saved_in_format_2(tmp_path):
    old = load_snapshot(FORMAT_1 / "velocity")
    assert old.parametrisation == sj.Parametrisation(sj.PredictDisplacement(), sj.TimeLabel())
    save(tmp_path / "new", old)
    data = json.loads((tmp_path / "new" / "model.json").read_text())
    assert data["format"] == 2
    assert data["parametrisation"]["prediction"] == {"class": "PredictDisplacement"}
    new = load_snapshot(tmp_path / "new")
    assert (new.config, new.sde, new.parametrisation) == (old.config, old.sde, old.parametrisation)
    assert new.source == old.source  # the hash is that of the parameters


@pytest.mark.parametrize(
    "damage", ["no folder", "no weights", "no model", "cut weights", "cut model", "other network", "no network"]
)
def test_a_damaged_snapshot_is_named(copy, damage):
    weights, model = copy / "params.safetensors", copy / "model.json"
    if damage == "no folder":
        copy.rename(copy.with_name("moved"))
    if damage == "no weights":
        weights.unlink()
    if damage == "no model":
        model.unlink()
    if damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    if damage == "cut model":
        model.write_text(model.read_text()[:200])
    if damage == "other network":
        data = json.loads(model.read_text())
        data["network"]["blocks"] = 2
        model.write_text(json.dumps(data))
    if damage == "no network":
        data = json.loads(model.read_text())
        data["network"] |= {"attention": [4], "heads": 3}
        model.write_text(json.dumps(data))
    wanted = {
        "no folder": "no such folder",
        "no weights": r"params\.safetensors is missing",
        "no model": r"model\.json is missing",
        "cut weights": r"params\.safetensors is damaged",
        "cut model": r"model\.json cannot be read",
        "other network": r"params\.safetensors lacks .* parameters",
        "no network": r"model\.json .*heads=3",
    }[damage]
    with pytest.raises(ValueError, match=f"^snapshot={str(copy)!r}: .*{wanted}") as raised:
        load_snapshot(copy)
    assert "\n" not in str(raised.value)


def test_parameters_that_do_not_fit_are_named(copy):
    arrays = to_names(of_classes().params)
    for change, wanted in (
        ({"conv_in.bias": None}, "first 'conv_in.bias'"),
        ({"conv_in.magic": np.zeros(3, np.float32)}, "first 'conv_in.magic'"),
        ({"conv_in.bias": np.zeros(3, np.float32)}, r"'conv_in.bias' has shape \(3,\)"),
    ):
        given = {name: np.asarray(value) for name, value in {**arrays, **change}.items() if value is not None}
        (copy / "params.safetensors").write_bytes(safetensors.numpy.save(given))
        with pytest.raises(ValueError, match=f"^snapshot={str(copy)!r}: params.safetensors .*{wanted}") as raised:
            load_snapshot(copy)
        assert "\n" not in str(raised.value)


def test_an_unknown_format_is_named_with_the_path(copy):
    data = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({**data, "format": 99}))
    with pytest.raises(ValueError, match=f"^snapshot={str(copy)!r}: model.json .*format=99") as raised:
        load_snapshot(copy)
    assert "\n" not in str(raised.value)


IMPORTERS = """
import builtins, sys
heavy = {"optax", "orbax", "tensorboardX", "grain", "fsspec"}
importers, ordinary = set(), builtins.__import__

def noting(name, globals=None, *rest):
    importer, imported = (globals or {}).get("__name__", "?").partition(".")[0], name.partition(".")[0]
    if imported in heavy and importer != imported:
        importers.add((importer, imported))
    return ordinary(name, globals, *rest)

builtins.__import__ = noting
import sdejax as sj
model = sj.load(sys.argv[1])
model.denoiser("red heart")
print(sorted(importers), sorted(heavy & set(sys.modules)))
"""


@pytest.mark.slow
def test_reading_a_snapshot_imports_no_library_of_training():
    """Only flax imports optax, at its own start: flax 0.12 cannot be imported without it."""
    snapshot = ROOT / "checkpoints" / "emoji32"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTERS, str(snapshot)],
        capture_output=True, text=True, cwd=ROOT, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[('flax', 'optax')] ['optax']"


def test_the_bundled_snapshot_is_of_format_2():
    assert json.loads((ROOT / "checkpoints" / "emoji32" / "model.json").read_text(encoding="utf-8"))["format"] == 2


@dataclasses.dataclass(frozen=True)
class OneConvConfig:
    """A network class of one's own."""

    shape: tuple[int, int, int] = (4, 4, 3)
    kernel: int = 3


class OneConv(nnx.Module):
    def __init__(self, config, rngs):
        self.conv = Conv(config.shape[2], config.shape[2], config.kernel, jnp.float32, rngs)

    def __call__(self, x, label, condition=None, key=None):
        return self.conv(x) * label[:, None, None, None]


def test_a_network_class_is_one_entry_of_a_list(tmp_path, monkeypatch):
    """Then it can be created, saved and loaded as the others are."""
    monkeypatch.setitem(NETWORKS, OneConvConfig, OneConv)
    model = Model.create(OneConvConfig(kernel=1), sj.VPSDE())
    save(tmp_path / "own", model)
    loaded = load_snapshot(tmp_path / "own")
    assert loaded.config == OneConvConfig(kernel=1)
    t, x = jnp.float32(0.5), jax.random.normal(jax.random.key(0), (2, *model.shape))
    np.testing.assert_array_equal(call(loaded.denoiser(), t, x), call(model.denoiser(), t, x))
    monkeypatch.delitem(NETWORKS, OneConvConfig)
    with pytest.raises(ValueError, match=r"network.class='OneConvConfig': .*NCSNppConfig"):
        load_snapshot(tmp_path / "own")
