"""The commands as a person types them: what they write, and one sentence for what they refuse."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

import sdejax as sj
from sdejax.commands.main import main
from sdejax.commands.options import parse_seeds
from sdejax.model.snapshot import save
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
        "from sdejax.training.config import Config\n"
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
    "edit @model": "PICTURE: is missing; it must be given, or 'guide' in each line of a --manifest",
    "edit @model @image.png --mask @mask.png --original @image.png": "mask=.*, original=.*: give one of them",
    "edit @model @image.png --original @large.png": "original: is 40 x 24, must be the picture's 8 x 8",
    "edit @model @image.png --original @image.png": "original: the picture nowhere differs",
    "edit @model @image.png --paste @large.png": "paste=.*needs at, the pixel X,Y",
    "edit @model @image.png --paste @large.png --at 3": "at='3': must be a pixel X,Y",
    "edit @model @image.png --paste @large.png --at 8,0": "at=8,0: the patch of 40 x 24 covers nothing",
    "edit @model @image.png --paste @large.png --at 0,0 --scale 0": r"scale=0\.0: must be above 0",
    "edit @model @image.png --at 3,4": "at='3,4': says where a patch goes, and needs paste",
    "edit @model @image.png --sweep 0.2,x": "--sweep='0.2,x': must be strengths in",
    "edit @model @image.png --sweep 0.2,1.1": "--sweep='0.2,1.1': must be strengths in",
    "edit @model @image.png --sweep 0.2,0.20": "--sweep='0.2,0.20': must be different strengths",
    "edit @model --manifest @none.jsonl": r"manifest=.*none\.jsonl.*cannot be read",
    "edit @model --manifest @mask.png --seeds 0-1": "--seeds='0-1': must be one seed with --manifest",
    "edit @model --manifest @mask.png --sweep 0.2": "--sweep=0.2: is for one picture",
    "strokes @image.png s.jpg": "OUT='s.jpg': must be the name of a PNG file",
    "strokes @image.png @file/s.png": "OUT=.*cannot be written",
    "strokes @none.png s.png": r"none\.png.*no such file",
    "strokes @image.png s.png --colours 1": "colours=1: must be from 2 to 256",
    "strokes @image.png s.png --filter 0": r"filter=0\.0: must be in \(0, 1\]",
    "sync @model @image.png --source a": "--target: is missing",
    "sync @model --source a --target b": "PICTURE: is missing",
    "sync @model @image.png --source red --target blue --coupling magnetic": "coupling='magnetic': must be",
    "edit @model @image.png --sweep 0.2,0.3 --realism 0.5": "--sweep=0.2,0.3, --realism=0.5: each says",
    "edit @model @image.png --realism 1": r"realism=1\.0: must be in \(0, 1\)",
    "edit @model @image.png --keep-distance 0": r"keep-distance=0\.0: must be above 0",
    "edit @model @image.png --known colour": "known='colour': must be luminance or blocks:N",
    "edit @model @image.png --known blocks:3": "factor=3: must divide the image's sides, 8 and 8",
    "edit @model @image.png --known luminance --mask @mask.png": "known='luminance', mask=.*: give one of them",
    "edit @model @image.png --negative red": "negative='red': needs a guidance scale",
    "sync @model @image.png --source red --target blue --method magic": "method='magic': must be one of sync_sde",
    "sync @model @image.png --source red --target blue --method fire_flow --order 1": "order=1: is for method=sync_sde",
    "sync @model @image.png --source red --target blue --target-negative a": "negative='a': needs a guidance scale",
    "sample @model --corrector 0": r"snr=0\.0: must be above 0",
    "sample @model --solver heun --order 1": "--order=1: is the exponential solver's",
    "sample @model --solver heun --corrector 0.16": "corrector=.*needs solver=Exponential",
    "sample @model --tolerance 0.01": r"--tolerance=0\.01: needs --solver heun or shark",
    "sample @model --solver shark --tolerance 0": r"--tolerance=0\.0: must be above 0 and finite",
    "sync @model @image.png --source a --target b --method fire_flow --solver heun": "solver='heun': is for",
    "sample @model --batch 0": "--batch=0: must be at least 1",
    "train @tiny.py": "data=.*empty.*has no image",
    "train @tiny.py --stepz 3": "'--stepz': no such option; did you mean --steps",
    "train @none.py": r"none\.py.*no such file",
    "plan @tiny.py --topology v9:2x2": "topology='v9:2x2': must be a TPU and its shape, such as v5e:4x4",
    "plan @tiny.py --topology h100:2x2": "topology='h100:2x2': must be a TPU and its shape",
    "plan @tiny.py --topology h100:4 --batch 6": "batch=6: must be a multiple of 4, the number of chips",
    "plan @tiny.py --topology h100:4 --train --batch 6": r"batch=6: must be a multiple of 4, .*\(4\) times accumulate",
    "plan @tiny.py --topology h100:4 --train --fsdp 3": "fsdp=3: must divide the number of devices, 4",
    "plan @tiny.py --topology h100:4 --fsdp 2": "--fsdp=2: is for --train",
    "plan @tiny.py --topology h100:4 --train --steps 2": "--steps=2: is for generation, not --train",
    "plan @tiny.py --topology h100:4 --guidance 2": "prompt=.*: this model was trained without text",
    "plan @tiny.py --topology h100:64": "topology='h100:64': needs 64 CPU devices",
    "plan @model --topology h100:4 --train": "--train: needs a config",
    "plan @none.py --topology h100:4": r"none\.py.*no such file",
    "plan @nowhere --topology h100:4": "snapshot=.*nowhere.*no such folder",
    "paint @model": "'paint': no such verb; the verbs are edit, sync, sample",
}


@pytest.mark.filterwarnings("ignore::sdejax.model.model.UnknownWordWarning")
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
    assert re.search(BAD[line], said[0])
    assert said[0].startswith("error: ")
    assert sorted(place.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["sample @model", "edit @model @image.png"])
def test_parquet_without_its_library_is_one_sentence_before_anything_is_made(
    place, tmp_path, capsys, monkeypatch, verb
):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "pyarrow" else found(name, *_))
    assert main(_words(place, f"{verb} --format parquet --out {tmp_path / 'out'}")) == 2
    assert capsys.readouterr().err.startswith("error: --format='parquet': needs pyarrow")
    assert not (tmp_path / "out").exists()


class NoCredentials(Exception):
    """A bucket's client has errors of its own."""


@pytest.mark.parametrize("method", ["pipe_file", "ls", "open"])
def test_what_a_buckets_client_raises_is_one_sentence(place, capsys, monkeypatch, method):
    def refuse(*_, **__):
        raise NoCredentials("no rights to\nbucket")

    monkeypatch.setattr(MemoryFileSystem, method, refuse)
    assert main(_words(place, "sample @model --steps 1 --format tar --out memory://bucket/out")) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "of 1 images" not in line]
    assert said.startswith("error: ") and "NoCredentials: no rights to bucket" in said


def test_seeds():
    assert parse_seeds("0-3,8") == [0, 1, 2, 3, 8]
    assert parse_seeds("7") == [7]
    for text in ("", "a", "1-", "-1", "3-1", "4294967296", "1,,2", "0-1000000", "1" * 5000):
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


def test_strokes_and_patches_are_edited_and_the_rest_is_kept(place, tmp_path):
    large = Image.open(place / "large.png").convert("RGB")
    painted = large.copy()
    painted.paste((255, 0, 255), (10, 8, 20, 12))
    painted.save(tmp_path / "painted.png")
    patch = Image.new("RGBA", (8, 6), (0, 255, 255, 0))
    patch.paste((0, 255, 255, 255), (0, 0, 8, 3))
    patch.save(tmp_path / "patch.png")
    for picture, options in (
        (painted, f"{tmp_path}/painted.png --original @large.png"),
        (large, f"@large.png --paste {tmp_path}/patch.png --at=-3,8 --scale 2"),
    ):
        words = _words(place, f"edit @model {options} --steps 3 --out {tmp_path / 'out'}")
        assert main(words) == 0
        result, given = (np.asarray(image) for image in (Image.open(tmp_path / "out" / "000000.png"), picture))
        edited = (result != given).any(-1)
        # A pixel of growth at 24 pixels; the patch's lower half is transparent, and enlarged its edge is soft.
        box = (slice(7, 13), slice(9, 21)) if picture is painted else (slice(7, 16), slice(0, 14))
        assert edited[box].mean() > 0.8
        edited[box] = False
        assert not edited.any()
        record = json.loads((tmp_path / "out" / "000000.json").read_text())
        again = [f"--{name}={record[name]}" for name in ("original", "paste", "at", "scale") if record[name]]
        assert main(["edit", record["snapshot"], record["guide"], *again, "--steps", "3", f"--out={tmp_path}/b"]) == 0
        assert (tmp_path / "b" / "000000.png").read_bytes() == (tmp_path / "out" / "000000.png").read_bytes()


def test_a_sweep_is_the_same_seeds_at_each_strength(place, tmp_path, compilations):
    out = tmp_path / "sweep"
    line = f"edit @model @image.png --seeds 3-4 --steps 3 --strength 1 --sweep 0.3,0.834,0.831 --out {out}"
    assert main(_words(place, line)) == 0
    names = [f"00000{seed}-{strength}" for seed in (3, 4) for strength in ("0.30", "0.834", "0.831")]
    assert sorted(file.stem for file in out.glob("*.json")) == sorted(names)
    # A row for each seed: the guide, then the strengths in their order.
    sheet = np.asarray(Image.open(out / "sheet.png"))
    cells = [place / "image.png", *(out / f"{name}.png" for name in names)]
    rows = [cells[:4], [cells[0], *cells[4:]]]
    for r, row in enumerate(rows):
        for c, cell in enumerate(row):
            top, left = 4 + r * 100, 4 + c * 100
            np.testing.assert_array_equal(
                sheet[top : top + 96 : 12, left : left + 96 : 12], np.asarray(Image.open(cell))
            )
    # Each is the edit at that strength alone, by its record, and no other strength compiles anything.
    record = json.loads((out / "000004-0.834.json").read_text())
    assert (record["strength"], record["sweep"], record["seed"]) == (0.834, None, 4)
    alone = f"edit @model @image.png --seeds 3-4 --steps 3 --strength 0.834 --out {tmp_path / 'alone'}"
    assert compilations(lambda: [main(_words(place, alone))]) == 0
    assert (tmp_path / "alone" / "000004.png").read_bytes() == (out / "000004-0.834.png").read_bytes()


def test_a_tolerance_solves_the_ode_from_any_first_step(place, tmp_path, capsys):
    """Heun with steps of its own choice is within 2 of 255 levels of 100 exponential steps.

    Rejects a --tolerance that does not reach the sampler: 4 equal steps of Heun's method are 96 levels off. One that no
    step is short enough for ends at once, and names the image.
    """

    def image(name, options):
        line = f"sample @model --stochasticity 0 --out {tmp_path / name} {options}"
        assert main(_words(place, line)) == 0
        return np.asarray(Image.open(tmp_path / name / "000000.png"), float)

    fine, adaptive = image("fine", "--steps 100"), image("adaptive", "--steps 4 --solver heun --tolerance 0.002")
    np.testing.assert_allclose(adaptive, fine, atol=2.0)
    words = f"sample @model --stochasticity 0 --solver heun --tolerance 1e-30 --out {tmp_path / 'none'}"
    assert main(_words(place, words)) == 2
    assert "error: 000000: images: a value is NaN or infinite: " in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_strokes(place, tmp_path):
    assert main(_words(place, f"strokes @large.png {tmp_path / 'new' / 's.png'} --colours 4")) == 0
    painting = Image.open(tmp_path / "new" / "s.png")
    assert painting.size == (40, 24)
    assert 2 <= len(painting.getcolors()) <= 4


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
    # Once, for however many seeds and strengths.
    line = f"edit @model @image.png --prompt hort --steps 3 --seeds 0-1 --sweep 0.3,0.4 --out {tmp_path / 'e'}"
    assert main(_words(place, line)) == 0
    assert capsys.readouterr().err.count("the model does not know the word 'hort'") == 1


def test_env_and_help(capsys):
    assert main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["backend"] == "cpu"
    assert len(found["devices"]) == 4
    assert main(["--help"]) == 0
    assert "sync-SDE" in capsys.readouterr().out
    assert main([]) == 2


def test_a_wished_distance_is_kept_and_the_record_reproduces_the_image(place, tmp_path, capsys):
    """Within 0.1 of the guide, to 8 bits; the record's strength gives the same picture without the search."""
    line = f"edit @model @image.png --keep-distance 0.1 --seeds 3 --steps 3 --out {tmp_path / 'near'}"
    assert main(_words(place, line)) == 0
    assert "seed 3: strength 0." in capsys.readouterr().err
    given, near = (np.asarray(Image.open(path).convert("RGB"), float) / 127.5 for path in
                   (place / "image.png", tmp_path / "near" / "000003.png"))  # fmt: skip
    assert 0.05 < np.sqrt(np.mean(np.square(near - given))) < 0.1 + 1 / 255
    strength = json.loads((tmp_path / "near" / "000003.json").read_text())["strength"]
    line = f"edit @model @image.png --strength {strength!r} --seeds 3 --steps 3 --out {tmp_path / 'again'}"
    assert main(_words(place, line)) == 0
    again = np.asarray(Image.open(tmp_path / "again" / "000003.png"), float) / 127.5
    np.testing.assert_array_equal(again, near)


def test_a_wished_realism_is_reached_or_the_seed_is_named(place, tmp_path, capsys):
    """At least what was asked for, with the strength of the record; seeds that never get there leave the others alone.

    Rejects the prompts of one image for the 64 samples that it is compared with.
    """
    out = tmp_path / "real"
    line = f"edit @model @image.png --realism 0.7 --prompt heart --guidance 2 --seeds 0-5 --steps 2 --out {out}"
    assert main(_words(place, line)) == 2
    said = capsys.readouterr().err
    refused = set(re.findall(r"error: seed (\d): realism=0\.7: at strength 1 it is", said))
    reached = {
        seed: (float(a), float(b)) for seed, a, b in re.findall(r"seed (\d): strength (\S+), realism (\S+)", said)
    }
    assert refused and reached and refused | set(reached) == set("012345") and not refused & set(reached)
    assert {path.stem[-1] for path in out.glob("0*.png")} == set(reached)
    for seed, (strength, realism) in reached.items():
        assert realism >= 0.7
        assert abs(json.loads((out / f"00000{seed}.json").read_text())["strength"] - strength) < 1e-3


def test_a_known_part_survives_the_command(place, tmp_path):
    """The block means of the guide, to the rounding of 8 bits; the rest is another image."""
    line = f"edit @model @image.png --known blocks:4 --strength 0.15 --steps 3 --out {tmp_path / 'known'}"
    assert main(_words(place, line)) == 0
    given, found = (np.asarray(Image.open(path).convert("RGB"), float).reshape(2, 4, 2, 4, 3) for path in
                    (place / "image.png", tmp_path / "known" / "000000.png"))  # fmt: skip
    inside = (found > 0).all((1, 3)) & (found < 255).all((1, 3))  # clipped pixels move a mean
    assert inside.any()
    assert np.abs(found.mean((1, 3)) - given.mean((1, 3)))[inside].max() <= 0.5
    assert np.abs(found - given).mean() > 5.0


# A person's Ctrl-C while jax looks for garbage: Python tells of it, and goes on.
UNHEARD = """
import gc, signal, sys
from sdejax.commands.main import main

def stop(phase, _):
    gc.callbacks.remove(stop)
    signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
gc.callbacks.append(stop)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals go to a thread")
def test_a_ctrl_c_is_heard_where_python_ignores_it(tmp_path):
    # Rejects leaving it to Python: the command would go on, with "Exception ignored in" amid its progress.
    words = ["sample", "checkpoints/emoji32", "--seeds", "0-199999", "--format", "tar", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-c", UNHEARD, *words]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, "Exception ignored" in run.stderr) == (130, False), run.stderr
    assert run.stderr.splitlines()[-1] == "stopped"
