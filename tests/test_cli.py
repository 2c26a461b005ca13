"""The commands as a person types them: what they write, and one sentence for what they refuse."""

import json

import numpy as np
import pytest
from PIL import Image

import sdejax as sj
from sdejax.checkpoint import save
from sdejax.cli import main
from sdejax.commands.run import parse_seeds
from tests.tiny import CONFIG, tiny_model


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny snapshot with text, one without, and pictures to edit."""
    top = tmp_path_factory.mktemp("cli")
    save(top / "model", tiny_model())
    broken = top / "broken"
    save(broken, tiny_model())
    (broken / "params.safetensors").unlink()
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(top / "image.png")
    Image.fromarray(noise).resize((40, 24)).convert("RGBA").save(top / "large.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 3:7] = 255
    Image.fromarray(mask).save(top / "mask.png")
    Image.fromarray(mask).resize((40, 24)).save(top / "large-mask.png")
    (top / "cut.png").write_bytes((top / "image.png").read_bytes()[:60])
    (top / "empty").mkdir()
    (top / "file").write_text("")
    (top / "tiny.py").write_text(
        "from sdejax.config import Config\n"
        f"def get_config():\n    return Config(name='t', data={str(top / 'empty')!r}, out={str(top / 'run')!r})\n"
    )
    return top


def _words(place, line):
    return [str(place / word[1:]) if word.startswith("@") else word for word in line.split()]


BAD = {
    "edit @model @image.png --strength 0": r"strength=0\.0: must be one number in \(0, 1\]",
    "edit @model @image.png --strength 1.5": r"strength=1\.5: must be",
    "edit @model @image.png --strength nan": r"strength=nan: must be",
    "edit @model @image.png --steps 0": "steps=0: must be a whole number of at least 1",
    "edit @model @image.png --repeats 0": "repeats=0: must be a whole number of at least 1",
    "edit @model @none.png": r"none\.png.*no such file",
    "edit @model @cut.png": r"cut\.png.*cut short",
    "edit @model @image.png --mask @large-mask.png": r"large-mask\.png.* is 40 x 24, must be the image's 8 x 8",
    "edit @nowhere @image.png": "snapshot=.*nowhere.*no such folder",
    "edit @broken @image.png": r"broken.*params\.safetensors is missing",
    "edit @model @image.png --seeds 7-3": "--seeds='7-3': must be seeds from 0",
    "edit @model @image.png --strenght 0.5": "'--strenght': no such option; did you mean --strength",
    "edit @model @image.png --steps many": "--steps.*many",
    "edit @model @image.png --out @file/x": "--out=.*cannot be written",
    "edit @wordless @image.png --prompt heart": "prompt='heart': this model was trained without text",
    "sync @model @image.png --source a": "--target",
    "sync @model @image.png --source red --target blue --coupling magnetic": "coupling='magnetic': must be",
    "sample @model --batch 0": "--batch=0: must be at least 1",
    "train @tiny.py": "data=.*empty.*has no image",
    "train @tiny.py --stepz 3": "'--stepz': no such option; did you mean --steps",
    "train @none.py": r"none\.py.*no such file",
    "paint @model": "'paint': no such verb; the verbs are edit, sync, sample",
}


@pytest.mark.filterwarnings("ignore::sdejax.model.UnknownWordWarning")
@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_sentence_and_nothing_is_written(place, line, capsys, tmp_path, monkeypatch):
    if "@wordless" in line and not (place / "wordless").exists():
        import dataclasses

        save(place / "wordless", tiny_model(dataclasses.replace(CONFIG, words=0)))
    monkeypatch.chdir(tmp_path)
    before = sorted(place.rglob("*"))
    assert main(_words(place, line)) == 2
    said = [text for text in capsys.readouterr().err.splitlines() if not text.startswith("warning:")]
    assert len(said) == 1
    import re

    assert re.search(BAD[line], said[0])
    assert said[0].startswith("error: ")
    assert sorted(place.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


def test_seeds():
    assert parse_seeds("0-3,8") == [0, 1, 2, 3, 8]
    assert parse_seeds("7") == [7]
    for text in ("", "a", "1-", "-1", "3-1", "4294967296", "1,,2"):
        with pytest.raises(ValueError, match="--seeds"):
            parse_seeds(text)


def test_edit_returns_the_guide_size_and_keeps_what_the_mask_keeps(place, tmp_path, capsys):
    for picture, mask in (("image.png", "mask.png"), ("large.png", "large-mask.png")):
        out = tmp_path / picture
        line = f"edit @model @{picture} --mask @{mask} --seeds 0-2 --steps 3 --batch 2 --json --out {out}"
        assert main(_words(place, line)) == 0
        given = np.asarray(Image.open(place / picture).convert("RGB"))
        kept = np.asarray(Image.open(place / mask)) == 0
        for seed in range(3):
            result = np.asarray(Image.open(out / f"{seed:06d}.png"))
            assert result.shape == given.shape
            np.testing.assert_array_equal(result[kept], given[kept])
            assert (result[~kept] != given[~kept]).any()
        lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
        assert [row["seed"] for row in lines[:-1]] == [0, 1, 2]
        assert lines[-1]["sheet"].endswith("sheet.png")


def test_the_record_of_an_image_reproduces_it(place, tmp_path):
    # The image of seed 5 in a batch of others is the image of seed 5 alone, from the record's own words.
    line = f"sync @model @image.png --source red --target blue --seeds 4-6 --steps 3 --out {tmp_path / 'a'}"
    assert main(_words(place, line)) == 0
    record = json.loads((tmp_path / "a" / "000005.json").read_text())
    words = [record["command"], record["snapshot"], record["image"], "--source", record["source"], "--target"]
    words += [record["target"], "--strength", str(record["strength"]), "--seeds", str(record["seed"])]
    assert main([*words, "--steps", str(record["run"]["steps"]), "--out", str(tmp_path / "b")]) == 0
    a, b = (np.asarray(Image.open(tmp_path / x / "000005.png")).astype(int) for x in "ab")
    assert np.abs(a - b).max() <= 1
    assert record["snapshot_hash"] == sj.load(record["snapshot"]).source


def test_the_same_words_leave_a_picture_of_any_size_alone(place, tmp_path):
    line = f"sync @model @large.png --source heart --target heart --steps 3 --out {tmp_path / 'same'}"
    assert main(_words(place, line)) == 0
    result = np.asarray(Image.open(tmp_path / "same" / "000000.png"))
    np.testing.assert_array_equal(result, np.asarray(Image.open(place / "large.png").convert("RGB")))


def test_a_word_that_the_model_does_not_know_is_a_warning(place, tmp_path, capsys):
    assert main(_words(place, f"sample @model --prompt hart --steps 2 --out {tmp_path / 'w'}")) == 0
    assert (
        "warning: the model does not know the word 'hart'; the nearest that it knows: heart" in capsys.readouterr().err
    )


def test_env_and_help(capsys):
    assert main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["backend"] == "cpu"
    assert len(found["devices"]) == 4
    assert main(["--help"]) == 0
    assert "sync-SDE" in capsys.readouterr().out
    assert main([]) == 2
