"""What a folder holds when a job begins there, and what all see of it at the end."""

import errno
import io
import json
import shutil

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

import sdejax.produce as produce
from sdejax.checkpoint import save
from sdejax.cli import main
from sdejax.shards import Row
from sdejax.sinks import ShardSink
from sdejax.spans import Span
from sdejax.storage import Folder
from tests.test_pods import sample, started
from tests.tiny import tiny_model
from tests.train_run import free_port


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("folders") / "model"
    save(path, tiny_model())
    return str(path)


def made(model, out, *words):
    return main(sample(model, out, *words))


def endings(out):
    return sorted({path.suffix for path in out.iterdir() if path.name not in ("sheet.png", "manifest.json")})


def test_a_job_that_grows_keeps_the_format_of_its_folder(model, tmp_path, monkeypatch, capsys):
    """Rejects a format by the number of images alone: the first of a grown job would be made a second time in shards,
    and a few of a job in shards a second time as pictures.
    """
    monkeypatch.setattr(produce, "_FEW", 4)
    assert made(model, tmp_path / "pictures", "--seeds", "0-3") == 0
    assert made(model, tmp_path / "pictures", "--seeds", "0-5") == 0
    assert endings(tmp_path / "pictures") == [".json", ".png"]
    assert made(model, tmp_path / "shards", "--seeds", "0-5") == 0
    capsys.readouterr()
    assert made(model, tmp_path / "shards", "--seeds", "0-1") == 0
    assert "2 of 2 images are done already" in capsys.readouterr().err
    assert endings(tmp_path / "shards") == [".json", ".tar"]
    assert made(model, tmp_path / "shards", "--seeds", "0-1", "--format", "png") == 2
    assert "--format='png': " in capsys.readouterr().err and endings(tmp_path / "shards") == [".json", ".tar"]
    assert made(model, tmp_path / "shards", "--seeds", "0-1", "--format", "parquet") == 2
    assert 'format was "tar", and is "parquet"' in capsys.readouterr().err


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_the_sheet_has_the_first_images_whoever_made_them(model, tmp_path, form):
    """Rejects a sheet of what this start has made: a job that went on had the last ones alone on it."""
    how = ("--format", form, "--shard-size", 3)
    for seeds in ("0-1", "0-7"):
        assert made(model, tmp_path / "in_two", "--seeds", seeds, *how) == 0
    assert made(model, tmp_path / "at_once", "--seeds", "0-7", *how) == 0
    one, other = ((tmp_path / name / "sheet.png").read_bytes() for name in ("in_two", "at_once"))
    assert one == other
    shutil.rmtree(tmp_path / "at_once")


def test_a_damaged_manifest_is_told_and_not_taken_for_none(model, tmp_path, capsys):
    """Rejects going on as if there were none: another prompt's shards would count as this job's."""
    how = ("--seeds", "0-3", "--format", "tar", "--shard-size", 2)
    assert made(model, tmp_path, *how) == 0
    whole = (tmp_path / "manifest.json").read_bytes()
    (tmp_path / "manifest.json").write_bytes(whole[:-9])
    assert main([*sample(model, tmp_path, *how), "--prompt", "square"]) == 2
    assert "manifest.json: is damaged; " in capsys.readouterr().err
    assert (tmp_path / "manifest.json").read_bytes() == whole[:-9]
    (tmp_path / "manifest.json").unlink()  # as the sentence says
    assert made(model, tmp_path, *how) == 0
    assert (tmp_path / "manifest.json").read_bytes() == whole


def test_a_process_that_does_not_see_the_others_folder_is_told(model, tmp_path):
    """Two folders stand for the disks of two machines. Rejects half of the images in each and exit code 0."""
    shared = ["--seeds", "0-7", "--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2, "--timeout", 10]
    pair = [started(*sample(model, tmp_path / str(i), *shared), "--process-id", i) for i in range(2)]
    said = [process.communicate(timeout=100)[1] for process in pair]
    assert [process.returncode for process in pair] == [1, 2], said
    assert "process 1 does not see what process 0 wrote there" in said[1]
    assert "process 1 of 2 has ended: " in said[0]
    assert not list(tmp_path.glob("?/.*"))


def test_who_stops_reading_standard_output_stops_the_job_in_order(model, tmp_path):
    """As `| head -1` does. Rejects calling it a folder that cannot be written, and an end amid a shard."""
    words = sample(model, tmp_path, "--seeds", "0-199999", "--format", "tar", "--shard-size", 4, "--json")
    process = started(*words)
    assert json.loads(process.stdout.readline())["images"] == 4
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(timeout=100) == 1, said
    assert said.count("error: ") == 1 and "error: standard output cannot be written (Broken pipe)" in said
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["images"] >= 8 and manifest["images"] % 4 == 0 and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("address", ["memory://patterns", ""])
def test_names_that_look_like_patterns_are_names(address, tmp_path):
    """Rejects the buckets' clients' way of moving and removing, which takes them for patterns: the file is lost."""
    folder = Folder.open(address or str(tmp_path / "out"))
    names = ["a*.png", "b?.png", "c[1].png", "plain.png"]
    with folder.made():
        for name in names:
            folder.write(name, name.encode())
    assert folder.sizes() == {name: len(name) for name in names}
    assert folder.read("c[1].png") == b"c[1].png"
    folder.remove("a*.png")
    assert sorted(folder.sizes()) == names[1:]


class _FullAtTheEnd(MemoryFileSystem):
    """The disk is full when the last blocks of a tar, which are zeros, are written."""

    cachable, protocol, store, pseudo_dirs = False, "full_at_the_end", {}, [""]

    def _open(self, path, mode="rb", **how):
        file = super()._open(path, mode, **how)
        if mode == "wb":
            write = file.write

            def full(data):
                if len(data) > 512 and not any(bytes(data)[-1024:]):
                    raise OSError(errno.ENOSPC, "No space left on device")
                return write(data)

            file.write = full
        return file


def test_a_shard_that_fails_as_it_ends_leaves_nothing():
    """Rejects forgetting it first: what was written lay on the full disk until the next start."""
    folder = Folder(_FullAtTheEnd(), "/out", "full:///out")
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(buffer, "png")
    sink = ShardSink(folder, "tar", {"format": "tar"}, None, 0, 1)
    with folder.made():
        sink.plan([Span(0, 0)])
        about = {"key": "000000", "seed": 0, "prompt": ""}
        sink.add(Row(0, buffer.getvalue(), about), Span(0, 0), "000000", {})
        with pytest.raises(OSError, match="No space"):
            sink.close()
        sink.abandon()
    assert folder._listed() == {}


def test_processes_with_disks_of_their_own_keep_their_own_programs(model, tmp_path, monkeypatch):
    """As the hosts of a pod have them. Rejects process 0 as the only one that keeps: others compiled at every start."""
    monkeypatch.setenv("JAX_LOG_COMPILES", "1")
    for number in range(2):
        shared = ["--seeds", "0-7", "--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2]
        words = sample(model, tmp_path / str(number), *shared)
        pair = [started(*words, "--cache", tmp_path / f"disk{i}", "--process-id", i) for i in range(2)]
        said = [process.communicate(timeout=200)[1] for process in pair]
        assert [process.returncode for process in pair] == [0, 0], said
    assert all("ompiling jit(_sample)" not in text for text in said), said
