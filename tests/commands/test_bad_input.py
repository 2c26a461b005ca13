"""Bad input is one sentence and exit code 2, and nothing is written."""

import importlib.util

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sdejax.commands.main import main
from sdejax.commands.seeds import parse_seeds
from tests.commands.words import words

# Each command, and what its error names: the option and its value.
BAD = {
    "edit @model @image.png --strength 0": "strength=0.0: ",
    "edit @model @image.png --strength 1.5": "strength=1.5: ",
    "edit @model @image.png --strength nan": "strength=nan: ",
    "edit @model @image.png --steps 0": "steps=0: ",
    "edit @model @image.png --repeats 0": "repeats=0: ",
    "edit @model @none.png": "none.png",
    "edit @model @cut.png": "cut.png",
    "edit @model @image.png --mask @large-mask.png": "large-mask.png",
    "edit @nowhere @image.png": "nowhere",
    "edit @broken @image.png": "params.safetensors",
    "edit @model @image.png --seeds 7-3": "--seeds='7-3': ",
    "edit @model @image.png --strenght 0.5": "'--strenght': ",
    "edit @model @image.png --steps many": "many",
    "edit @model @image.png --out @file/x": "--out=",
    "edit @wordless @image.png --prompt heart": "prompt='heart': ",
    "edit @model": "PICTURE: ",
    "edit @model @image.png --mask @mask.png --original @image.png": ", original=",
    "edit @model @image.png --original @large.png": "original: ",
    "edit @model @image.png --original @image.png": "original: ",
    "edit @model @image.png --paste @large.png": "paste=",
    "edit @model @image.png --paste @large.png --at 3": "at='3': ",
    "edit @model @image.png --paste @large.png --at 8,0": "at=8,0: ",
    "edit @model @image.png --paste @large.png --at 0,0 --scale 0": "scale=0.0: ",
    "edit @model @image.png --at 3,4": "at='3,4': ",
    "edit @model @image.png --sweep 0.2,x": "--sweep='0.2,x': ",
    "edit @model @image.png --sweep 0.2,1.1": "--sweep='0.2,1.1': ",
    "edit @model @image.png --sweep 0.2,0.20": "--sweep='0.2,0.20': ",
    "edit @model @image.png --sweep 0.2,0.3 --realism 0.5": "--sweep=0.2,0.3, --realism=0.5: ",
    "edit @model @image.png --realism 1": "realism=1.0: ",
    "edit @model @image.png --keep-distance 0": "keep-distance=0.0: ",
    "edit @model @image.png --known colour": "known='colour': ",
    "edit @model @image.png --known blocks:3": "factor=3: ",
    "edit @model @image.png --known luminance --mask @mask.png": "known='luminance', mask=",
    "edit @model @image.png --known luminance --repeats 2": "known='luminance', repeats=2: ",
    "edit @model @image.png --negative red": "negative='red': ",
    "edit @model --manifest @none.jsonl": "none.jsonl",
    "edit @model --manifest @mask.png --seeds 0-1": "--seeds='0-1': ",
    "edit @model --manifest @mask.png --sweep 0.2": "--sweep=0.2: ",
    "strokes @image.png s.jpg": "OUT='s.jpg': ",
    "strokes @image.png @file/s.png": "OUT=",
    "strokes @none.png s.png": "none.png",
    "strokes @image.png s.png --colours 1": "colours=1: ",
    "strokes @image.png s.png --filter 0": "filter=0.0: ",
    "strokes @image.png": "OUT",
    "sync @model @image.png --source a": "--target: ",
    "sync @model --source a --target b": "PICTURE: ",
    "sync @model @image.png --source red --target blue --coupling magnetic": "coupling='magnetic': ",
    "sync @model @image.png --source red --target blue --method magic": "method='magic': ",
    "sync @model @image.png --source red --target blue --method fire_flow --order 1": "order=1: ",
    "sync @model @image.png --source a --target b --method fire_flow --solver heun": "solver='heun': ",
    "sync @model @image.png --source a --target b --method flow_edit --coupling reflection": "coupling='reflection': ",
    "sync @model @image.png --source red --target blue --target-negative a": "negative='a': ",
    "sample @model --corrector 0": "=0.0: ",
    "sample @model --solver heun --order 1": "--order=1: ",
    "sample @model --solver heun --corrector 0.16": "--corrector=0.16: ",
    "sample @model --tolerance 0.01": "--tolerance=0.01: ",
    "sample @model --solver euler --tolerance 0.01": "--tolerance=0.01: ",
    "sample @model --solver shark --tolerance 0": "--tolerance=0.0: ",
    "sample @model --batch 0": "--batch=0: ",
    "sample @model --shard-size 0": "--shard-size=0: ",
    "sample @model --timeout 0": "--timeout=0: ",
    "sample @model --out=": "--out='': ",
    "sample @model --cache=": "--cache='': ",
    "warmup @model --shape 8x8": "--shape='8x8': ",
    "warmup @model --shape 8x8x1": "--shape=8x8x1: ",
    "train": "CONFIG: ",
    "train --steps 3": "CONFIG='--steps': ",
    "train @tiny.py": "empty",
    "train @tiny.py --stepz 3": "'--stepz': ",
    "train @none.py": "none.py",
    "plan @tiny.py --topology v9:2x2": "topology='v9:2x2': ",
    "plan @tiny.py --topology h100:2x2": "topology='h100:2x2': ",
    "plan @tiny.py --topology h100:4 --batch 6": "batch=6: ",
    "plan @tiny.py --topology h100:4 --train --batch 6": "batch=6: ",
    "plan @tiny.py --topology h100:4 --train --fsdp 3": "fsdp=3: ",
    "plan @tiny.py --topology h100:4 --fsdp 2": "--fsdp=2: ",
    "plan @tiny.py --topology h100:4 --train --steps 2": "--steps=2: ",
    "plan @tiny.py --topology h100:4 --train --guidance 2": "--guidance=2.0: ",
    "plan @tiny.py --topology h100:4 --guidance 2": "prompt=",
    "plan @tiny.py --topology h100:64": "topology='h100:64': ",
    "plan @model --topology h100:4 --train": "--train: ",
    "plan @none.py --topology h100:4": "none.py",
    "plan @nowhere --topology h100:4": "nowhere",
    "paint @model": "'paint': ",
}


@pytest.mark.filterwarnings("ignore::sdejax.model.model.UnknownWordWarning")
@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_sentence_and_nothing_is_written(place, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(place.rglob("*"))
    assert main(words(place, line)) == 2
    said = [text for text in capsys.readouterr().err.splitlines() if not text.startswith("warning:")]
    assert len(said) == 1 and said[0].startswith("error: ") and BAD[line] in said[0], said
    assert sorted(place.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("word", "near"), [("--strenght", "--strength"), ("--bach=3", "--batch")])
def test_an_unknown_option_is_answered_with_the_nearest(place, capsys, word, near):
    assert main(words(place, f"edit @model @image.png {word}")) == 2
    assert f"did you mean {near}?" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["sample @model", "edit @model @image.png"])
def test_parquet_without_its_library_is_one_sentence_before_anything_is_made(
    place, tmp_path, capsys, monkeypatch, verb
):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "pyarrow" else found(name, *_))
    assert main(words(place, f"{verb} --format parquet --out {tmp_path / 'out'}")) == 2
    assert capsys.readouterr().err.startswith("error: --format='parquet': ")
    assert not (tmp_path / "out").exists()


class NoCredentials(Exception):
    """A bucket's client has errors of its own."""


@pytest.mark.parametrize("method", ["pipe_file", "ls", "open"])
def test_an_error_of_a_buckets_client_is_one_sentence(place, capsys, monkeypatch, method):
    def refuse(*_, **__):
        raise NoCredentials("no rights to\nbucket")

    monkeypatch.setattr(MemoryFileSystem, method, refuse)
    assert main(words(place, "sample @model --steps 1 --format tar --out memory://bucket/out")) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "of 1 images" not in line]
    assert said.startswith("error: ") and "NoCredentials: no rights to bucket" in said


def test_seeds():
    assert parse_seeds("0-3,8") == [0, 1, 2, 3, 8]
    assert parse_seeds("7") == [7]
    for text in ("", "a", "1-", "-1", "3-1", "4294967296", "1,,2", "0-1000000", "1" * 5000):
        with pytest.raises(ValueError, match="--seeds"):
            parse_seeds(text)
