"""`sdejax evaluate` as a person calls it."""

import dataclasses
import json
import lzma
import shutil
from pathlib import Path

import pytest

import sdejax as sj
from sdejax.commands.main import main
from sdejax.edit.methods import METHODS
from sdejax.evaluation.run import UNEDITED, SettingGrid
from sdejax.media.images import save_png, to_image
from sdejax.model.snapshot import save
from tests.commands.words import words
from tests.tiny import CONFIG, tiny_edits, tiny_model


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A snapshot with text, one without, and a manifest of four edits."""
    top = tmp_path_factory.mktemp("place")
    save(top / "model", tiny_model())
    save(top / "wordless", tiny_model(dataclasses.replace(CONFIG, words=0)))
    rows = []
    for i, edit in enumerate(tiny_edits(4)):
        for name in ("source", "truth"):
            save_png(top / f"{name}{i}.png", to_image(getattr(edit, name)))
        rows.append({"image": f"source{i}.png", "source": edit.source_prompt, "target": edit.target_prompt})
        rows[-1]["truth"] = f"truth{i}.png"
    (top / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return top


def test_the_published_rows_are_of_the_bundled_snapshot_and_complete():
    """Every setting of the tables in docs/emoji-edits.md has a score for each of the 306 edits. Rejects rows of another
    snapshot, and missing settings.
    """
    top = Path(__file__).parents[2]
    with lzma.open(top / "benchmarks/results/emoji-edits.jsonl.xz", "rt") as file:
        identity, *rows = map(json.loads, file)
    assert identity["snapshot"] == sj.load(top / "checkpoints/emoji32").source and identity["number"] == 306
    grid = SettingGrid(tuple(METHODS), (0.3, 0.45, 0.6, 0.8), (1.0, 2.0), (0, 1, 2, 3), identity["steps"])
    found = {(row["method"], row["strength"], row["guidance"], row["seed"]) for row in rows}
    assert {dataclasses.astuple(setting) for setting in grid.settings()} <= found
    for row in rows:
        assert {len(scores) for scores in row["scores"].values()} == {306} and None not in row["scores"]["l1"]


def test_edits_of_a_manifest(place, tmp_path, capsys):
    line = ["evaluate", "edits", str(place / "model"), str(place / "m.jsonl"), "--methods", "sdedit"]
    line += ["--strengths", "0.4,0.7", "--guidances", "1", "--seeds", "0,1", "--steps", "2", "--out", str(tmp_path)]
    assert main([*line, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["method"] for line in lines] == [UNEDITED, "sdedit"]
    assert lines[1]["evaluations"] == 2
    # The same command runs nothing and prints the same. The snapshot may also be an option.
    line = [*line[:2], *line[3:], "--snapshot", line[2]]
    assert main([*line, "--json"]) == 0
    said = capsys.readouterr()
    assert [json.loads(line) for line in said.out.splitlines()] == lines and said.err == ""
    # If only the rows are there, as those that are published, it draws the pictures of the chosen settings, and no
    # others.
    before = {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    shown, chosen = (tmp_path / "sheet.png").read_bytes(), f"sdedit-{lines[1]['strength']:g}-1-0.png"
    shutil.rmtree(tmp_path / "results")
    assert main([*line, "--json"]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()} == {chosen: before[chosen]}
    assert (tmp_path / "sheet.png").read_bytes() == shown


# Each command, and what its error names.
BAD = {
    "edits @model": "model: ",
    "emoji-edits": "paths: ",
    "edits @model @none.jsonl": "none.jsonl",
    "edits @wordless @m.jsonl": "snapshot: ",
    "edits @model @m.jsonl --methods magic": "methods='magic': ",
    "edits @model @m.jsonl --strengths 0.5,1.5": "strengths=1.5: ",
    "edits @model @m.jsonl --strengths much": "--strengths='much': ",
    "edits @model @m.jsonl --guidances nan": "guidances=nan: ",
    "edits @model @m.jsonl --seeds 0,0": "seeds=0, 0: ",
    "edits @model @m.jsonl --steps 0": "steps=0: ",
    "edits @model @m.jsonl --limit 1": "--limit=1: ",
    "edits @model @m.jsonl --out @m.jsonl/x": "out=",
    "emoji-edits @model @m.jsonl": "m.jsonl: ",
    "emoji-edits @model --data @nowhere": "nowhere",
    "paintings @model": "paintings",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_sentence_and_nothing_is_written(place, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *words(place, line)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and BAD[line] in said[0]
    assert list(tmp_path.iterdir()) == []
