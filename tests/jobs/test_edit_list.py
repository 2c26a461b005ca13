"""Many edits from one list: the same images as one by one, after interruptions and beside lines that fail."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageDraw

import sdejax as sj
from sdejax.commands.edit import EditCommand
from sdejax.commands.editing import edit_manifest
from sdejax.commands.main import main
from sdejax.commands.options import Run
from sdejax.jobs.edit_list import FailedEdits, ListedEdit, grouped, read_edit_list
from sdejax.media.images import to_array, to_bytes
from sdejax.media.inputs import open_input
from sdejax.model.snapshot import save
from tests.tiny import tiny_model

EDITS = [
    {"guide": "a.png", "prompt": "red heart", "seed": 4},
    {"guide": "wide.png", "mask": "wide-mask.png", "prompt": "blue heart", "strength": 0.4},
    {"guide": "painted.png", "original": "wide.png", "name": "strokes"},
    {"guide": "a.png", "paste": "patch.png", "at": "3,-1", "scale": 1.5, "guidance": 2.0, "prompt": "green circle"},
    {"guide": "wide.png", "name": "wide", "seed": 9, "strength": 0.4, "repeats": 2},
]
NAMES = ["000001", "000002", "strokes", "000004", "wide"]


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """One device, as on a laptop: the tests assume its batches. tests/jobs/test_pods.py has more devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny snapshot, pictures, and a list of five edits with few options in common."""
    top = tmp_path_factory.mktemp("manifest")
    save(top / "model", tiny_model())
    pictures = top / "pictures"
    pictures.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(pictures / "a.png")
    wide = Image.fromarray(noise[::-1]).resize((30, 18), Image.Resampling.BICUBIC)
    wide.save(pictures / "wide.png")
    ImageDraw.Draw(wide).line((4, 4, 20, 12), (255, 0, 255), 3)
    wide.save(pictures / "painted.png")
    mask = Image.new("L", (30, 18))
    mask.paste(255, (6, 3, 22, 15))
    mask.save(pictures / "wide-mask.png")
    Image.fromarray(noise[:4, :4]).save(pictures / "patch.png")
    _write(pictures / "edits.jsonl", EDITS)
    return top


def _write(path, lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def _edit(place, manifest, out, *more):
    words = ["edit", place / "model", "--manifest", manifest, "--out", out, "--steps", "2", "--batch", "2", *more]
    return main([str(word) for word in words])


def _files(out):
    return {file.name: file.read_bytes() for file in sorted(out.iterdir())}


def _pixels(path):
    return np.asarray(Image.open(path)).astype(int)


@pytest.fixture(scope="module")
def whole(place):
    """The images of the list, made without an interruption."""
    assert _edit(place, place / "pictures" / "edits.jsonl", place / "whole") == 0
    return place / "whole"


def test_a_listed_edit_is_the_same_as_the_edit_alone(place, whole, tmp_path):
    # The command comes from the record. Bit for bit, because a batch of the same size is the same program. Rejects
    # prompts, masks, seeds and pictures that are swapped within a batch. The last lines show that each changes it.
    files = [f"{name}.{end}" for name in NAMES for end in ("png", "json")]
    assert sorted(_files(whole)) == sorted([*files, "sheet.png"])
    for name in NAMES:
        record = json.loads((whole / f"{name}.json").read_text())
        seed = record["seed"]
        words = ["edit", record["snapshot"], record["guide"], "--steps", "2", "--batch", "2"]
        for option in ("strength", "mask", "original", "paste", "at", "scale", "repeats", "prompt", "guidance"):
            words += [] if record[option] is None else [f"--{option}={record[option]}"]
        assert main([*words, "--seeds", f"{seed}-{seed + 1}", "--out", str(tmp_path / name)]) == 0
        alone = tmp_path / name / f"{seed:06d}.png"
        assert alone.read_bytes() == (whole / f"{name}.png").read_bytes()
        again = json.loads(alone.with_suffix(".json").read_text())
        again["run"] |= {"out": str(whole), "seeds": str(seed)}
        assert again == record
    others = [{**EDITS[1], "seed": 1}, {**EDITS[1], "prompt": "red heart"}, {**EDITS[1], "mask": None}]
    assert _edit(place, _write(place / "pictures" / "other.jsonl", others), tmp_path / "other") == 0
    for name in ("000001", "000002", "000003"):
        assert np.abs(_pixels(whole / "000002.png") - _pixels(tmp_path / "other" / f"{name}.png")).max() > 1


def test_listed_edits_are_what_the_library_makes_of_their_pictures_masks_and_prompts(place, tmp_path):
    # Rejects masks and prompts that do not reach the model: outside of a mask the picture is kept in any case.
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4], mask[:, 4:6] = 128, 255
    Image.fromarray(mask).save(place / "pictures" / "grey.png")
    lines = [{"guide": "a.png", "mask": "grey.png", "prompt": "red heart"}, {"guide": "a.png", "seed": 3}]
    assert _edit(place, _write(place / "pictures" / "grey.jsonl", lines), tmp_path / "out") == 0
    model = sj.load(place / "model")
    picture = to_array(Image.open(place / "pictures" / "a.png"))
    masks = np.stack([mask / np.float32(255), np.ones((8, 8), np.float32)])[..., None]
    expected = sj.sdedit(
        model.denoiser(["red heart", ""]),
        model.sde,
        np.stack([picture, picture]),
        sj.keys([0, 3]),
        strength=0.5,
        mask=masks,
        sampler=sj.Sampler(2),
    )
    for name, image in zip(("000001", "000002"), np.asarray(expected), strict=True):
        np.testing.assert_array_equal(_pixels(tmp_path / "out" / f"{name}.png"), to_bytes(image))


def test_an_interrupted_list_is_finished_with_the_same_bytes(place, whole, tmp_path, capsys):
    # A killed process leaves missing files. Other accidents cut files short.
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "000001.png").unlink()
    (out / "000002.json").unlink()
    (out / "sheet.png").unlink()
    (out / "strokes.json").write_bytes((out / "strokes.json").read_bytes()[:-40])
    (out / "wide.png").write_bytes((out / "wide.png").read_bytes()[:-40])
    before = (out / "000004.png").stat().st_mtime_ns
    capsys.readouterr()
    assert _edit(place, place / "pictures" / "edits.jsonl", out, "--json") == 0
    said = capsys.readouterr()
    made = [json.loads(line) for line in said.out.splitlines()][:-1]
    assert sorted(line["file"] for line in made) == sorted(
        str(out / f"{name}.png") for name in NAMES if name != "000004"
    )
    assert "1 of 5 images are done already" in said.err
    assert (out / "000004.png").stat().st_mtime_ns == before
    expected = _files(whole)
    for name, data in _files(out).items():
        assert (
            data.replace(str(out).encode(), str(whole).encode()).replace(b'"json": true', b'"json": false')
            == (expected[name])
        )


def test_only_images_that_differ_are_made_again(place, whole, tmp_path, capsys):
    # The image is the same if inputs are moved, for another batch, and if defaults are written out. It is another image
    # if a byte of an input, the seed or the mask changes.
    out, moved = tmp_path / "out", tmp_path / "moved"
    shutil.copytree(whole, out)
    shutil.copytree(place / "pictures", moved)

    def made(lines, *more):
        capsys.readouterr()
        assert _edit(place, _write(moved / "edits.jsonl", lines), out, "--json", *more) == 0
        files = [json.loads(line).get("file") for line in capsys.readouterr().out.splitlines()][:-1]
        return [file.rsplit("/", 1)[-1].removesuffix(".png") for file in files]

    spelled = [{**EDITS[0], "scale": 1, "mask": None, "repeats": 1, "strength": 0.5}, *EDITS[1:]]
    assert made(spelled, "--batch", "7") == []
    Image.open(moved / "patch.png").transpose(Image.Transpose.ROTATE_90).save(moved / "patch.png")
    assert made(EDITS) == ["000004"]
    assert made([{**EDITS[0], "seed": 5}, *EDITS[1:]]) == ["000001"]
    assert made([EDITS[0], {**EDITS[1], "mask": None}, *EDITS[2:]]) == ["000001", "000002"]


def test_a_broken_line_is_named_and_leaves_the_others_alone(place, whole, tmp_path, capsys):
    broken = [
        ('{"guide": "a.png"', "JSON"),
        ("[1, 2]", "JSON"),
        ('{"guide": "\xe4.png"}', "JSON"),  # not UTF-8
        ({"guide": "none.png"}, "none.png"),
        ({"guide": "edits.jsonl"}, "edits.jsonl"),  # not an image
        ({"guide": None}, "guide: "),
        ({"strength": 0.4}, "guide: "),
        ({"guide": "a.png", "strenght": 0.4}, "'strenght': "),
        ({"guide": "a.png", "out": "x"}, "'out': "),
        ({"guide": "a.png", "strength": 0}, "strength=0.0: "),
        ({"guide": "a.png", "strength": "0.4"}, 'strength="0.4": '),
        ({"guide": "a.png", "strength": True}, "strength=true: "),
        ({"guide": "a.png", "repeats": 1.5}, "repeats=1.5: "),
        ({"guide": "a.png", "repeats": 0}, "repeats=0: "),
        ({"guide": "a.png", "repeats": 2**31}, "repeats=2147483648: "),
        ({"guide": "a.png", "seed": -1}, "seed=-1: "),
        ({"guide": "a.png", "prompt": 3}, "prompt=3: "),
        ('{"guide": "a.png", "guidance": 1e999}', "guidance=inf: "),
        ({"guide": "a.png", "strength": 10**400}, "strength="),
        ({"guide": "a.png", "mask": "wide-mask.png"}, "wide-mask.png"),
        ({"guide": "a.png", "paste": "patch.png", "at": "50,3"}, "at=50,3: "),
        ({"guide": "a.png", "at": [3, 4]}, "at=[3, 4]: "),
    ]
    manifest = _write(place / "pictures" / "broken.jsonl", [*EDITS, *(line for line, _ in broken)])
    manifest.write_bytes(manifest.read_text().encode("latin1"))
    assert _edit(place, manifest, tmp_path / "out") == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    for number, (line, option) in enumerate(broken, 1 + len(EDITS)):
        named = [text for text in said if text.startswith(f"error: {number:06d}: ")]
        assert len(named) == 1 and option in named[0], line
    assert len(said) == len(broken)
    made, expected = _files(tmp_path / "out"), _files(whole)
    assert made.keys() == expected.keys()
    for name in NAMES:
        assert made[f"{name}.png"] == expected[f"{name}.png"]
    assert made["sheet.png"] == expected["sheet.png"]


@pytest.mark.parametrize(
    ("lines", "where"),
    [
        ([{"guide": "a.png", "name": "x"}, {"guide": "a.png", "name": "x"}], "line 2: name='x': "),
        ([{"guide": "a.png", "name": "000002"}, {"guide": "a.png"}], "line 2: name='000002': "),
        ([{"guide": "a.png", "name": "../x"}], "line 1: name='../x': "),
        ([{"guide": "a.png", "name": "a\\b"}], r"line 1: name='a\\b': "),
        ([{"guide": "a.png"}, {"guide": "a.png", "name": ""}], "line 2: name='': "),
        ([{"guide": "a.png", "name": 7}], "line 1: name=7: "),
        ([{"guide": "a.png", "name": ".."}], "line 1: name='..': "),
        ([{"guide": "a.png", "name": "a\u0000b"}], r"line 1: name='a\x00b': "),
        ([{"guide": "a.png", "name": "x" * 201}], f"line 1: name='{'x' * 201}': "),
        ([{"guide": "a.png", "name": "sheet"}], "line 1: name='sheet': "),
        (["", "  "], ""),
    ],
)
def test_an_impossible_name_is_refused_before_anything_is_written(place, tmp_path, lines, where, capsys):
    manifest = _write(place / "pictures" / "names.jsonl", lines)
    assert _edit(place, manifest, tmp_path / "out") == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith(f"error: manifest={str(manifest)!r}") and where in said[0]
    assert list(tmp_path.iterdir()) == []


def test_empty_lines_count_and_a_line_takes_the_rest_from_the_command(tmp_path):
    manifest = tmp_path / "edits.jsonl"
    manifest.write_bytes(b'\xef\xbb\xbf{"strength": 1}\r\n\r\n{"prompt": "x", "seed": 0, "guide": "/top/c.png"}\n')
    failures = FailedEdits(print)
    command = EditCommand("model", "b.png", prompt="y", repeats=2, run=Run(seeds="7"))
    first, second = read_edit_list(str(manifest), command, ("guide",), failures)
    assert not failures.by_name
    assert (first.name, first.seed, second.name, second.seed) == ("000001", 7, "000003", 0)
    assert first.command == EditCommand("model", "b.png", 1.0, prompt="y", repeats=2, run=Run(seeds="7"))
    assert second.command == EditCommand("model", "/top/c.png", prompt="x", repeats=2, run=Run(seeds="0"))


def test_sync_from_a_list(place, tmp_path):
    lines = [
        {"image": "a.png", "target": "blue heart"},
        {"image": "wide.png", "mask": "wide-mask.png", "target": "green circle", "strength": 0.6},
        {"image": "wide.png", "target": "red heart"},
        {"image": "wide.png", "target": "blue heart", "seed": 3},
    ]
    manifest = _write(place / "pictures" / "sync.jsonl", lines)
    base = ["sync", str(place / "model"), "--source", "red heart", "--steps", "2", "--batch", "2"]
    assert main([*base, "--manifest", str(manifest), "--out", str(tmp_path / "out")]) == 0
    wide = _pixels(place / "pictures" / "wide.png")
    mask = _pixels(place / "pictures" / "wide-mask.png") > 0
    results = [_pixels(tmp_path / "out" / f"{number:06d}.png") for number in range(1, 5)]
    np.testing.assert_array_equal(results[1][~mask], wide[~mask])
    assert (results[1][mask] != wide[mask]).any()
    np.testing.assert_array_equal(results[2], wide)  # equal prompts change nothing
    picture = str(place / "pictures" / "wide.png")
    assert main([*base, picture, "--target", "blue heart", "--seeds", "3-4", "--out", str(tmp_path / "alone")]) == 0
    np.testing.assert_array_equal(results[3], _pixels(tmp_path / "alone" / "000003.png"))
    assert np.abs(results[3] - wide).max() > 1


class KeepingEditor:
    """An editor whose results are the pictures. It notes which pictures it opens, and the strengths of each batch."""

    files: ClassVar[Sequence[str]] = ("guide",)
    shared: ClassVar[Sequence[str]] = ("strength",)

    def __init__(self):
        self.opened: list[str] = []
        self.computed: list[tuple[int, list[float]]] = []

    def check(self, command, model):
        pass

    def prompt(self, command):
        return ""

    def open(self, command, shape):
        self.opened.append(command.guide)
        return open_input(command.guide, shape)

    def compute(self, model, commands, images, masks, keys):
        self.computed.append((len(self.opened), [command.strength for command in commands]))
        return jnp.asarray(images)

    def finish(self, given, result):
        return given.replaced(result)


def test_pictures_are_read_when_their_batch_comes(place, tmp_path):
    # Rejects reading all pictures at the start, which would need the memory of a thousand photos, and batches that mix
    # strengths. A broken picture leaves no gap in a batch.
    guides = ["a.png", "none.png", "wide.png", "a.png", "a.png", "painted.png"]
    lines = [{"guide": guide, "strength": 0.6 if k == 3 else 0.2} for k, guide in enumerate(guides)]
    manifest = _write(place / "pictures" / "lazy.jsonl", lines)
    editor = KeepingEditor()
    command = EditCommand("m", manifest=str(manifest), run=Run(out=str(tmp_path / "out"), batch=2))
    assert edit_manifest(editor, command, tiny_model()) == 2
    assert editor.computed == [(3, [0.2, 0.2]), (5, [0.2, 0.2]), (6, [0.6, 0.6])]


class StoppedEditor(KeepingEditor):
    """Stopped by Ctrl-C in the second batch."""

    def compute(self, model, commands, images, masks, keys):
        if self.computed:
            raise KeyboardInterrupt
        return super().compute(model, commands, images, masks, keys)


def test_a_stopped_list_continues(place, tmp_path):
    # The first batch is written, and the rest has the same bytes as without Ctrl-C.
    manifest = _write(
        place / "pictures" / "stop.jsonl", [{"guide": "a.png"}, {"guide": "wide.png"}, {"guide": "painted.png"}]
    )
    model = tiny_model()

    def command(out, steps=20, batch=1):
        run = Run(out=str(tmp_path / out), steps=steps, batch=batch)
        return EditCommand("m", manifest=str(manifest), run=run)

    def computed(command, model=model):
        editor = KeepingEditor()
        assert edit_manifest(editor, command, model) == 0
        return [len(strengths) for _, strengths in editor.computed]

    with pytest.raises(KeyboardInterrupt):
        edit_manifest(StoppedEditor(), command("a"), model)
    assert sorted(_files(tmp_path / "a")) == ["000001.json", "000001.png"]
    assert computed(command("a")) == [1, 1]
    assert computed(command("b")) == [1, 1, 1]
    for name, data in _files(tmp_path / "b").items():
        assert data.replace(str(tmp_path / "b").encode(), str(tmp_path / "a").encode()) == _files(tmp_path / "a")[name]
    # With other options or weights images are made again; with another batch they are not.
    assert computed(command("a", steps=7)) == [1, 1, 1]
    assert computed(command("a", steps=7, batch=3)) == []
    assert computed(command("a", steps=7, batch=3), dataclasses.replace(model, source="other weights")) == [3]


class BrokenEditor(KeepingEditor):
    """The first image of each batch is NaN."""

    def compute(self, model, commands, images, masks, keys):
        return jnp.asarray(images).at[0].set(np.nan)


def test_an_image_that_is_not_finite_spoils_no_other(place, tmp_path, capsys):
    manifest = _write(place / "pictures" / "nan.jsonl", [{"guide": "a.png"}, {"guide": "wide.png"}])
    command = EditCommand("m", manifest=str(manifest), run=Run(out=str(tmp_path / "out"), batch=2))
    assert edit_manifest(BrokenEditor(), command, tiny_model()) == 2
    assert sorted(_files(tmp_path / "out")) == ["000002.json", "000002.png", "sheet.png"]
    assert "error: 000001: images: " in capsys.readouterr().err


def test_groups_keep_their_order():
    commands = [EditCommand("m", repeats=a, guidance=b) for a, b in ((1, None), (2, None), (1, None), (1, 0.0))]
    edits = [ListedEdit(str(i), i, command) for i, command in enumerate(commands)]
    groups = grouped(edits, ("repeats", "guidance"))
    assert [[edit.seed for edit in group] for group in groups] == [[0, 2], [1], [3]]
