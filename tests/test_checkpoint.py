"""Snapshots come back bit for bit, and damaged ones are named."""

import json

import jax
import numpy as np
import optax
import pytest

import sdejax as sj
from sdejax.checkpoint import Checkpoints, save
from sdejax.checkpoint import load_snapshot as load
from sdejax.training import init_state
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("snapshot") / "tiny"
    model = tiny_model(sde=sj.VESDE(sigma_max=20.0))
    save(folder, model)
    return folder, model


def test_a_snapshot_comes_back_bit_for_bit(snapshot):
    folder, model = snapshot
    loaded = load(folder)
    assert (loaded.config, loaded.sde, loaded.parametrisation) == (model.config, model.sde, model.parametrisation)
    assert loaded.vocabulary == model.vocabulary
    assert jax.tree.structure(loaded.params) == jax.tree.structure(model.params)
    for a, b in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(model.params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert loaded.source.startswith("sha256:")


def test_half_precision_is_within_its_rounding(snapshot, tmp_path):
    _, model = snapshot
    save(tmp_path / "half", model, dtype="float16")
    for a, b in zip(jax.tree.leaves(load(tmp_path / "half").params), jax.tree.leaves(model.params), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=2**-11, atol=1e-6)


@pytest.mark.parametrize("damage", ["no folder", "no weights", "no model", "cut weights", "cut model", "other network"])
def test_a_damaged_snapshot_is_named(snapshot, tmp_path, damage):
    folder, _ = snapshot
    copy = tmp_path / "copy"
    if damage != "no folder":
        copy.mkdir()
        for file in folder.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
    weights, model = copy / "params.safetensors", copy / "model.json"
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
    wanted = {
        "no folder": "no such folder",
        "no weights": r"params\.safetensors is missing",
        "no model": r"model\.json is missing",
        "cut weights": r"params\.safetensors is damaged or cut short",
        "cut model": r"model\.json cannot be understood",
        "other network": "lacks .* parameters of the architecture",
    }[damage]
    with pytest.raises(ValueError, match=f"copy.*{wanted}"):
        load(copy)


def test_a_checkpoint_keeps_the_newest_and_restores_every_bit(tmp_path):
    model = tiny_model()
    optimiser = optax.adam(1e-3)
    state = init_state(model.params, optimiser)
    checkpoints = Checkpoints(tmp_path / "run", kept=2)
    assert checkpoints.restore(state) is None
    for step in (1, 2, 3):
        moved = jax.tree.map(lambda leaf, step=step: leaf + step, state)
        checkpoints.save(moved)
    checkpoints.close()
    again = Checkpoints(tmp_path / "run", kept=2)
    restored = again.restore(state)
    again.close()
    assert restored is not None
    assert int(restored.step) == 3
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b + 3)
    kept = sorted(int(folder.name) for folder in (tmp_path / "run").iterdir() if folder.name.isdigit())
    assert kept == [2, 3]
