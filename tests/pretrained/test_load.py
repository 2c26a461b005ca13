"""`sdejax.load` finds the layout of a path, and a layout of one's own is one class and one entry of a list."""

import json

import numpy as np
import pytest

import sdejax as sj
from sdejax.model.snapshot import save
from sdejax.nn.params import from_names, to_names
from sdejax.pretrained import hub, load
from sdejax.pretrained.convert import export_model
from tests.pretrained.test_diffusers import write
from tests.tiny import parameters, tiny_model

CONFIG = sj.NCSNppConfig(shape=(4, 4, 3), channels=4, multipliers=(1,), blocks=1, attention=())


class NpzLayout:
    """A layout of one's own: parameters in an .npz file, for one network."""

    description = "an .npz file"

    def reads(self, path):
        return path.suffix == ".npz"

    def read(self, path, options):
        network = sj.FlaxNetwork(CONFIG, from_names(sj.FlaxNetwork.abstract(CONFIG).params, dict(np.load(path))))
        return sj.Model(network, options.sde or sj.VPSDE())


def test_a_layout_of_ones_own_is_one_class_and_one_entry(tmp_path, monkeypatch):
    file, params = tmp_path / "weights.npz", parameters(CONFIG)
    np.savez(file, **to_names(params))
    with pytest.raises(ValueError, match=r"^snapshot=.*weights\.npz': "):
        sj.load(file)
    monkeypatch.setattr(load, "LAYOUTS", (*load.LAYOUTS, NpzLayout()))
    model = sj.load(file, sde=sj.VESDE())
    assert model.sde == sj.VESDE()
    for name, value in to_names(model.params).items():
        np.testing.assert_array_equal(value, to_names(params)[name])


def test_a_folder_with_two_layouts_is_read_as_a_snapshot(tmp_path):
    """`sdejax export` writes such a folder. The snapshot keeps what diffusers' layout cannot."""
    source = sj.load(write(tmp_path / "source", "ddpm"))
    save(tmp_path / "snapshot", source)
    assert export_model(tmp_path / "snapshot", tmp_path / "out") == ""
    file = tmp_path / "out" / "model.json"
    data = json.loads(file.read_text())
    data["network"]["dropout"] = 0.25
    file.write_text(json.dumps(data))
    assert sj.load(tmp_path / "out").config.dropout == 0.25
    file.unlink()
    assert sj.load(tmp_path / "out").config == source.config


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_a_path_that_no_layout_reads_is_named_with_the_layouts(tmp_path, kind):
    path = tmp_path / kind
    if kind == "empty":
        path.mkdir()
    if kind == "file":
        path.write_bytes(b"weights")
    with pytest.raises(ValueError, match=f"^snapshot={str(path)!r}: ") as raised:
        sj.load(path)
    for layout in load.LAYOUTS:
        assert layout.description in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_repository_is_a_folder_or_its_one_file_of_weights(tmp_path, monkeypatch):
    folders = {f"hf://a/{name}": tmp_path / name for name in ("snapshot", "file", "two")}
    monkeypatch.setattr(hub, "resolve", folders.__getitem__)
    monkeypatch.setattr(load, "LAYOUTS", (*load.LAYOUTS, NpzLayout()))
    model = tiny_model(CONFIG)
    save(folders["hf://a/snapshot"], model)
    for folder, files in (("file", ["w.npz", "README.md"]), ("two", ["v.npz", "w.npz"])):
        (tmp_path / folder).mkdir()
        for name in files:
            np.savez((tmp_path / folder / name).open("wb"), **to_names(model.params))
    for address in ("hf://a/snapshot", "hf://a/file"):
        assert sj.load(address).config == CONFIG
    with pytest.raises(ValueError, match=r"^snapshot='hf://a/two': "):
        sj.load("hf://a/two")
