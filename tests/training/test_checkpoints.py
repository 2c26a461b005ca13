"""Checkpoints come back bit for bit, and damaged ones are named."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sdejax.runtime.sharding import place, state_shardings, train_mesh
from sdejax.training.checkpoints import Checkpoints
from sdejax.training.step import init_state

NOTES = {"position": 12, "losses": [0.1]}


def _state(width=48):
    """A state of a few arrays; a checkpoint does not depend on what they mean."""
    values = np.random.default_rng(0).standard_normal((2, 512, width), np.float32)
    return init_state({"kernel": jnp.asarray(values[0]), "bias": jnp.asarray(values[1, 0])}, optax.adam(1e-3))


def _saved(folder, steps, **options):
    """Save a checkpoint at each of `steps`, of a state to whose arrays the step was added."""
    state = _state()
    checkpoints = Checkpoints(folder, **options)
    for step in steps:
        checkpoints.save(jax.tree.map(lambda leaf, step=step: leaf + step, state), {**NOTES, "position": step})
    checkpoints.close()
    return state


def _newest(checkpoints, like):
    found = checkpoints.restore(like)
    assert found is not None
    return found


def test_a_checkpoint_keeps_the_newest_and_restores_every_bit(tmp_path):
    assert Checkpoints(tmp_path / "none").restore(_state()) is None
    state = _saved(tmp_path / "run", (1, 2, 3, 4, 5), kept=2, forever=2)
    again = Checkpoints(tmp_path / "run")
    restored, notes = _newest(again, state)
    again.close()
    assert int(restored.step) == 5
    assert (notes.get("position"), notes.get("losses")) == (5, [0.1])
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b + 5)
    kept = sorted(int(folder.name) for folder in (tmp_path / "run").iterdir() if folder.name.isdigit())
    assert kept == [2, 4, 5]  # the newest two, and those whose step 2 divides


@pytest.mark.parametrize("damage", ["cut in half", "emptied", "removed", "flipped bits", "no notes"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path, damage):
    """Rejects arrays that come back as zeros without an error if their file is gone, and a run that starts again."""
    state = _saved(tmp_path / "run", (1, 2))
    broken = tmp_path / "run" / "2"
    files = [file for file in broken.rglob("*") if file.is_file()]
    data = max((file for file in files if file.parent.name == "d"), key=lambda file: file.stat().st_size)
    if damage == "cut in half":
        os.truncate(data, data.stat().st_size // 2)
    if damage == "emptied":
        os.truncate(data, 0)
    if damage == "removed":
        data.unlink()
    if damage == "flipped bits":  # a bit in each file of arrays, because not all of a file is read again
        for file in (file for file in files if file.parent.name == "d"):
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
    if damage == "no notes":
        for file in files:
            if "notes" in file.parts:
                file.unlink()
    said = []
    checkpoints = Checkpoints(tmp_path / "run", say=said.append)
    restored, notes = _newest(checkpoints, state)
    assert (int(restored.step), notes.get("position")) == (1, 1)
    assert len(said) == 1
    assert f"{broken} is damaged" in said[0]
    checkpoints.save(jax.tree.map(lambda leaf: leaf + 2, state), NOTES)  # the run reaches step 2 again
    checkpoints.close()
    assert int(_newest(Checkpoints(tmp_path / "run"), state)[0].step) == 2


def test_if_all_checkpoints_are_damaged_no_run_starts_again(tmp_path):
    state = _saved(tmp_path / "run", (1,))
    for file in (tmp_path / "run" / "1").rglob("*"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"^checkpoints=.*run': all are damaged"):
        Checkpoints(tmp_path / "run").restore(state)


def test_a_checkpoint_of_another_network_is_not_called_damaged(tmp_path):
    _saved(tmp_path / "run", (1,))
    with pytest.raises(ValueError, match=r"^checkpoints=.*params.bias: .*\[48\], now .*\[32\]; .*--out"):
        Checkpoints(tmp_path / "run").restore(_state(width=32))
    assert (tmp_path / "run" / "1").is_dir()


def test_a_checkpoint_comes_back_on_another_number_of_devices(tmp_path):
    """It is written from four devices and read on two and on one, bit for bit. Rejects the shardings of the writer."""
    state, placed = _state(), []
    for devices in (4, 2, 1):
        mesh = train_mesh(devices, jax.devices()[:devices])
        placed.append(place(state, state_shardings(state, mesh)))
    widest = max(jax.tree.leaves(placed[0]), key=lambda leaf: leaf.size)
    assert len({str(shard.index) for shard in widest.addressable_shards}) == 4
    checkpoints = Checkpoints(tmp_path / "run")
    checkpoints.save(placed[0], NOTES)
    checkpoints.close()
    for like in placed[1:]:
        restored, _ = Checkpoints(tmp_path / "run").restore(like) or pytest.fail("no checkpoint")
        for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(like), strict=True):
            assert a.sharding.is_equivalent_to(b.sharding, a.ndim)
            np.testing.assert_array_equal(a, b)


def test_the_path_of_a_bucket_stays_as_it_is():
    # Rejects gs:/bucket in the working folder, which is its absolute path.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orbax.checkpoint.CheckpointManager", lambda folder, options: None)
        assert str(Checkpoints("gs://bucket/run").folder) == "gs://bucket/run"
        assert Checkpoints("run").folder.is_absolute()
