"""An output format of your own is one class, and one line in the list of formats."""

import io
import json
import zipfile
from functools import partial

import numpy as np
import pytest
from PIL import Image

from sdejax.commands.main import main
from sdejax.commands.options import Run
from sdejax.commands.sample import SampleCommand
from sdejax.jobs.formats import FORMATS
from sdejax.jobs.shard_sink import ShardSink
from sdejax.model.snapshot import save
from tests.tiny import tiny_model


class Zip:
    """Shards that any computer opens."""

    ending = "zip"

    def writer(self, file):
        return ZipWriter(file)

    def images(self, file):
        with zipfile.ZipFile(file) as shard:
            for name in shard.namelist():
                yield name.removesuffix(".png"), shard.read(name)


class ZipWriter:
    def __init__(self, file):
        self._zip = zipfile.ZipFile(file, "w")

    def add(self, image):
        self._zip.writestr(f"{image.name}.png", image.png)

    def close(self):
        self._zip.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("formats") / "model"
    save(path, tiny_model())
    return str(path)


def words(model, out, seeds, *more):
    return ["sample", model, "--steps", "2", "--batch", "2", "--seeds", seeds, "--out", str(out), *more]


def test_a_new_format_holds_the_same_images_and_is_continued(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(FORMATS, "zip", partial(ShardSink, Zip()))
    run = Run(str(tmp_path / "zip"), "0-5", steps=2, batch=2, format="zip", shard_size=2, cache="none")
    assert SampleCommand(model, run=run).execute() == 0
    assert main(words(model, tmp_path / "zip", "0-7", "--shard-size", "2")) == 0  # it keeps the folder's format
    assert "6 of 8 images are done already" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "zip" / "manifest.json").read_text())
    assert manifest["complete"] and manifest["job"]["format"] == "zip" and len(manifest["finished"]) == 4
    assert main(words(model, tmp_path / "png", "0-7")) == 0
    for shard in (tmp_path / "zip").glob("*.zip"):
        with zipfile.ZipFile(shard) as file:
            for name in file.namelist():
                with Image.open(io.BytesIO(file.read(name))) as one, Image.open(tmp_path / "png" / name) as other:
                    np.testing.assert_array_equal(one, other)
    sheets = [(tmp_path / kind / "sheet.png").read_bytes() for kind in ("zip", "png")]
    assert sheets[0] == sheets[1]  # the sheet reads images of the first start from their shards


def test_a_format_that_is_not_in_the_list_is_named(model, tmp_path, capsys):
    assert main(words(model, tmp_path / "a", "0", "--format", "gif")) == 2
    said = capsys.readouterr().err
    assert "gif" in said and "png" in said and said.count("\n") == 1 and not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "manifest.json").write_text('{"job": {"format": "gif"}, "finished": []}')
    assert main(words(model, tmp_path / "b", "0")) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: format='gif': must be one of png, tar, parquet") and said.count("\n") == 1
