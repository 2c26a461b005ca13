"""The verbs that make images, as a person calls them: what they write, and that the record reproduces it."""

import json
import re

import numpy as np
import pytest
from PIL import Image

import sdejax as sj
from sdejax.commands.main import main
from tests.commands.words import words


def test_edit_returns_the_guide_size_and_keeps_what_the_mask_keeps(place, tmp_path, capsys):
    for picture, mask in (("image.png", "mask.png"), ("large.png", "large-mask.png")):
        out = tmp_path / picture
        line = f"edit @model @{picture} --mask @{mask} --seeds 0-2 --steps 3 --batch 2 --json --out {out}"
        assert main(words(place, line)) == 0
        given = np.asarray(Image.open(place / picture).convert("RGB"))
        kept = np.asarray(Image.open(place / mask)) == 0
        for seed in range(3):
            result = np.asarray(Image.open(out / f"{seed:06d}.png"))
            assert result.shape == given.shape
            np.testing.assert_array_equal(result[kept], given[kept])
            assert (result[~kept] != given[~kept]).any()
        lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
        assert [row["seed"] for row in lines if "seed" in row] == [0, 1, 2]  # there may be lines of the progress
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
        assert main(words(place, f"edit @model {options} --steps 3 --out {tmp_path / 'out'}")) == 0
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
    assert main(words(place, line)) == 0
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
    # By its record each is the edit at that strength alone, and another strength compiles nothing.
    record = json.loads((out / "000004-0.834.json").read_text())
    assert (record["strength"], record["sweep"], record["seed"]) == (0.834, None, 4)
    alone = f"edit @model @image.png --seeds 3-4 --steps 3 --strength 0.834 --out {tmp_path / 'alone'}"
    assert compilations(lambda: [main(words(place, alone))]) == 0
    assert (tmp_path / "alone" / "000004.png").read_bytes() == (out / "000004-0.834.png").read_bytes()


@pytest.mark.slow
def test_a_tolerance_solves_the_ode_from_any_first_step(place, tmp_path, capsys):
    """Heun with steps by their error is within 2 of 255 levels of 100 exponential steps.

    Rejects a --tolerance that does not reach the sampler: 4 equal steps of Heun's method are 96 levels off. If no step
    is short enough for the tolerance, the command ends at once and names the image.
    """

    def image(name, options):
        line = f"sample @model --stochasticity 0 --out {tmp_path / name} {options}"
        assert main(words(place, line)) == 0
        return np.asarray(Image.open(tmp_path / name / "000000.png"), float)

    fine, adaptive = image("fine", "--steps 100"), image("adaptive", "--steps 4 --solver heun --tolerance 0.002")
    np.testing.assert_allclose(adaptive, fine, atol=2.0)
    line = f"sample @model --stochasticity 0 --solver heun --tolerance 1e-30 --out {tmp_path / 'none'}"
    assert main(words(place, line)) == 2
    assert "error: 000000: images: " in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_strokes(place, tmp_path):
    assert main(words(place, f"strokes @large.png {tmp_path / 'new' / 's.png'} --colours 4")) == 0
    painting = Image.open(tmp_path / "new" / "s.png")
    assert painting.size == (40, 24)
    assert 2 <= len(painting.getcolors() or []) <= 4


def test_the_record_of_an_image_reproduces_it(place, tmp_path):
    # The image of seed 5 in a batch of others is the image of seed 5 alone, from the record's own words.
    line = f"sync @model @image.png --source red --target blue --seeds 4-6 --steps 3 --out {tmp_path / 'a'}"
    assert main(words(place, line)) == 0
    record = json.loads((tmp_path / "a" / "000005.json").read_text())
    again = [record["command"], record["snapshot"], record["image"], "--source", record["source"], "--target"]
    again += [record["target"], "--strength", str(record["strength"]), "--seeds", str(record["seed"])]
    assert main([*again, "--steps", str(record["run"]["steps"]), "--out", str(tmp_path / "b")]) == 0
    a, b = (np.asarray(Image.open(tmp_path / x / "000005.png")).astype(int) for x in "ab")
    assert np.abs(a - b).max() <= 1
    assert record["snapshot_hash"] == sj.load(record["snapshot"]).source


def test_the_same_words_leave_a_picture_of_any_size_alone(place, tmp_path):
    line = f"sync @model @large.png --source heart --target heart --steps 3 --out {tmp_path / 'same'}"
    assert main(words(place, line)) == 0
    result = np.asarray(Image.open(tmp_path / "same" / "000000.png"))
    np.testing.assert_array_equal(result, np.asarray(Image.open(place / "large.png").convert("RGB")))


def test_a_word_that_the_model_does_not_know_is_a_warning(place, tmp_path, capsys):
    assert main(words(place, f"sample @model --prompt hart --steps 2 --out {tmp_path / 'w'}")) == 0
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert "'hart'" in warning and warning.endswith(": heart")
    # There is one warning for all seeds and strengths.
    line = f"edit @model @image.png --prompt hort --steps 3 --seeds 0-1 --sweep 0.3,0.4 --out {tmp_path / 'e'}"
    assert main(words(place, line)) == 0
    assert capsys.readouterr().err.count("'hort'") == 1


def test_a_distance_is_kept_and_the_record_reproduces_the_image(place, tmp_path, capsys):
    """The result is within 0.1 of the guide, to 8 bits. The strength of the record gives the same picture."""
    line = f"edit @model @image.png --keep-distance 0.1 --seeds 3 --steps 3 --out {tmp_path / 'near'}"
    assert main(words(place, line)) == 0
    assert "seed 3: strength 0." in capsys.readouterr().err
    given, near = (np.asarray(Image.open(path).convert("RGB"), float) / 127.5 for path in
                   (place / "image.png", tmp_path / "near" / "000003.png"))  # fmt: skip
    assert 0.05 < np.sqrt(np.mean(np.square(near - given))) < 0.1 + 1 / 255
    strength = json.loads((tmp_path / "near" / "000003.json").read_text())["strength"]
    line = f"edit @model @image.png --strength {strength!r} --seeds 3 --steps 3 --out {tmp_path / 'again'}"
    assert main(words(place, line)) == 0
    again = np.asarray(Image.open(tmp_path / "again" / "000003.png"), float) / 127.5
    np.testing.assert_array_equal(again, near)


@pytest.mark.slow
def test_a_realism_is_reached_or_the_seed_is_named(place, tmp_path, capsys):
    """The realism is at least what was asked for. A seed that does not reach it at any strength is named.

    Rejects a denoiser with the prompt of a single image for the 64 samples that the image is compared with.
    """
    out = tmp_path / "real"
    line = f"edit @model @image.png --realism 0.7 --prompt heart --guidance 2 --seeds 0-5 --steps 2 --out {out}"
    assert main(words(place, line)) == 2
    said = capsys.readouterr().err
    refused = set(re.findall(r"error: seed (\d): realism=0\.7: ", said))
    reached = {
        seed: (float(a), float(b)) for seed, a, b in re.findall(r"seed (\d): strength (\S+), realism (\S+)", said)
    }
    assert refused and reached and refused | set(reached) == set("012345") and not refused & set(reached)
    assert {path.stem[-1] for path in out.glob("0*.png")} == set(reached)
    for seed, (strength, realism) in reached.items():
        assert realism >= 0.7
        assert abs(json.loads((out / f"00000{seed}.json").read_text())["strength"] - strength) < 1e-3


def test_a_known_part_survives_the_command(place, tmp_path):
    """The means of blocks are those of the guide, to the rounding of 8 bits. The rest is another image."""
    line = f"edit @model @image.png --known blocks:4 --strength 0.15 --steps 3 --out {tmp_path / 'known'}"
    assert main(words(place, line)) == 0
    given, found = (np.asarray(Image.open(path).convert("RGB"), float).reshape(2, 4, 2, 4, 3) for path in
                    (place / "image.png", tmp_path / "known" / "000000.png"))  # fmt: skip
    inside = (found > 0).all((1, 3)) & (found < 255).all((1, 3))  # clipped pixels move a mean
    assert inside.any()
    assert np.abs(found.mean((1, 3)) - given.mean((1, 3)))[inside].max() <= 0.5
    assert np.abs(found - given).mean() > 5.0
