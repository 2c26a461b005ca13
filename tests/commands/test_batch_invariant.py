"""--batch-invariant reaches every program of every verb that makes images, and none of the others."""

import json

import numpy as np
import pytest
from PIL import Image

from sdejax.commands.main import main
from sdejax.model.snapshot import save
from sdejax.runtime import program_cache
from sdejax.runtime.jit import use_program_store
from sdejax.runtime.program_cache import ProgramCache
from sdejax.runtime.storage import Folder
from tests.commands.words import words
from tests.tiny import tiny_model


class NotingCache(ProgramCache):
    """A program cache that notes the mode of each program that is run."""

    def __init__(self, folder):
        super().__init__(folder)
        self.modes = []

    def call(self, function, lower, static_argnames, args, kwargs):
        self.modes.append(kwargs["batch_invariant"])
        return super().call(function, lower, static_argnames, args, kwargs)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of the commands that a test runs."""
    (tmp_path / "programs").mkdir()
    cache = NotingCache(Folder.open(str(tmp_path / "programs")))
    monkeypatch.setattr(program_cache, "keep_programs", lambda address, job="": None)
    use_program_store(cache)
    yield cache
    use_program_store(None)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny snapshot, a picture, a list of edits by SDEdit, and one of edits to evaluate."""
    top = tmp_path_factory.mktemp("batch-invariant")
    save(top / "model", tiny_model())
    for name in ("a", "b"):
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(top / f"{name}.png")
    (top / "edits.jsonl").write_text('{"guide": "a.png"}\n{"guide": "b.png", "seed": 1}\n')
    rows = [{"image": f"{name}.png", "truth": "a.png", "source": "red", "target": "blue"} for name in ("a", "b")]
    (top / "evaluate.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return top


LINES = [
    "sample @model --seeds 0-2",
    "warmup @model",
    "edit @model @a.png",
    "edit @model @a.png --known luminance",
    "edit @model @a.png --keep-distance 0.3",
    "edit @model @a.png --warmup",
    "edit @model --manifest @edits.jsonl",
    "sync @model @a.png --source red --target blue",
    "sync @model @a.png --source red --target blue --method rf_inversion",
    "evaluate edits @model @evaluate.jsonl --methods sdedit --strengths 0.5 --guidances 1 --seeds 0",
]


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_every_program_is_batch_invariant_if_that_is_asked_for(place, tmp_path, cache, line):
    # Rejects a mode that is entered before a thread or a generator takes over, or not at all for some verb.
    more = ["--steps", "1", "--out", str(tmp_path / "out"), "--batch-invariant"]
    assert main([*words(place, line), *more]) == 0
    assert cache.modes and all(cache.modes)


@pytest.mark.slow
def test_the_mode_is_part_of_what_an_image_is(place, tmp_path, cache, capsys):
    # Rejects taking an image of one mode for an image of the other: their last bits differ.
    line = ["sample", str(place / "model"), "--steps", "1", "--out", str(tmp_path / "out"), "--json"]
    counts = []
    for more in ([], ["--batch-invariant"], ["--batch-invariant"], []):
        capsys.readouterr()
        assert main([*line, *more]) == 0
        counts.append(json.loads(capsys.readouterr().out.splitlines()[-1])["images"])
    assert counts == [1, 1, 0, 1]
    assert {True, False} == set(cache.modes)
    record = json.loads((tmp_path / "out" / "000000.json").read_text())
    assert record["run"]["batch_invariant"] is False
