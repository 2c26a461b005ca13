"""The training program on a dozen committed emoji."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdejax.checkpoint import load_snapshot as load
from sdejax.cli import main
from train.data import ImageFolder, batches
from train.emoji import held_out, read_emoji_test
from train.report import Console

EMOJI = Path(__file__).parent / "emoji"
SHAPE = (16, 16, 3)
TINY = """
import dataclasses
from sdejax.config import Config, OptimiserConfig
from sdejax.nn.architecture import NCSNppConfig

def get_config():
    network = NCSNppConfig(shape=(8, 8, 3), channels=8, multipliers=(1,), blocks=1, attention=(), text_width=8)
    return Config(name="tiny", data={data!r}, validation={data!r}, captions=True, out={out!r}, network=network, batch=4,
                  steps=6, optimiser=OptimiserConfig(warmup=2), log_every=1, validate_every=3, sample_every=6,
                  checkpoint_every=3)
"""


def _stream(folder, start, seed=0, flip=False, count=12):
    tokens = np.arange(len(folder.files))[:, None]
    stream = batches(folder, SHAPE, tokens, batch=4, seed=seed, flip=flip, start=start)
    return [next(stream) for _ in range(count - start)]


def test_a_batch_is_its_number():
    # The iterator's position is the step. Rejects a resumed run that starts the epoch again.
    folder = ImageFolder.read(EMOJI, captioned=True)
    whole, resumed = _stream(folder, 0, flip=True), _stream(folder, 5, flip=True)
    for a, b in zip(whole[5:], resumed, strict=True):
        np.testing.assert_array_equal(a["tokens"], b["tokens"])
        np.testing.assert_array_equal(a["image"], b["image"])


def test_every_epoch_is_a_permutation_of_its_own():
    # 12 images, batches of 4: three batches are an epoch. Rejects sampling with replacement, and one order for all.
    folder = ImageFolder.read(EMOJI, captioned=True)
    order = np.concatenate([batch["tokens"][:, 0] for batch in _stream(folder, 0)]).reshape(4, 12)
    for epoch in order:
        assert sorted(epoch) == list(range(12))
    assert len({tuple(epoch) for epoch in order}) > 1
    other = np.concatenate([batch["tokens"][:, 0] for batch in _stream(folder, 0, seed=1)])
    assert (other != order.ravel()).any()


def test_captions_belong_to_their_images():
    folder = ImageFolder.read(EMOJI, captioned=True)
    red = folder.files[folder.captions.index("red heart")]
    pixel = np.asarray(Image.open(red).convert("RGB"))[16, 16].astype(int)
    assert pixel[0] > 180 > pixel[2]
    assert len(folder.files) == 12


def test_the_held_out_rule_is_fixed():
    # Facts of SHA-256: nobody may move a name from one side to the other.
    assert [held_out(name) for name in ("three o’clock", "red heart", "ogre", "grinning face")] == [  # noqa: RUF001
        True,
        False,
        True,
        False,
    ]


def test_fully_qualified_names_are_read(tmp_path):
    (tmp_path / "t.txt").write_text(
        "# subgroup: face-smiling\n"
        "1F600 ; fully-qualified # \U0001f600 E1.0 grinning face\n"
        "263A ; unqualified # \u263a E0.6 smiling face\n"
        "1F468 1F3FD ; fully-qualified     # \U0001f468\U0001f3fd E1.0 man: medium skin tone\n"
    )
    emoji = list(read_emoji_test(tmp_path / "t.txt"))
    assert [(e.text, e.name) for e in emoji] == [
        ("\U0001f600", "grinning face"),
        ("\U0001f468\U0001f3fd", "man: medium skin tone"),
    ]
    assert emoji[0].subgroup == "face-smiling"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run of 6 steps, and one that breaks at step 5 and is started again by the same command."""
    top = tmp_path_factory.mktemp("runs")
    folders = {}
    for name in ("whole", "resumed"):
        config = top / f"{name}.py"
        config.write_text(TINY.format(data=str(EMOJI), out=str(top / name)))
        folders[name] = top / name
        if name == "resumed":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Console, "log", _break_at_five)
                with pytest.raises(MemoryError):
                    main(["train", str(config)])
            while not (top / name / "checkpoints" / "3").exists():  # it is written in the background
                time.sleep(0.1)
        assert main(["train", str(config)]) == 0
    return folders


def _break_at_five(console, row, log=Console.log):
    if row["step"] == 5:
        raise MemoryError
    log(console, row)


def _rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_run_goes_on_bit_for_bit(runs):
    # Rejects an optimiser or average that starts anew, random numbers that go on from elsewhere, and other batches.
    whole, resumed = (
        [(row["step"], row["loss"]) for row in _rows(folder) if "loss" in row] for folder in runs.values()
    )
    assert [step for step, _ in whole] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in resumed] == [1, 2, 3, 4, 4, 5, 6]
    assert resumed[:4] == whole[:4]
    assert resumed[4:] == whole[3:]


def test_a_run_leaves_what_the_docs_say(runs):
    folder = runs["whole"]
    model = load(folder / "snapshot")
    assert model.vocabulary is not None
    assert "heart" in model.vocabulary.words
    assert model.shape == (8, 8, 3)
    sheet = Image.open(folder / "samples-0000006.png")
    assert sheet.width > sheet.height
    validation = [row["validation"] for row in _rows(folder) if "validation" in row]
    assert len(validation) == 2
    assert json.loads((folder / "config.json").read_text())["name"] == "tiny"
