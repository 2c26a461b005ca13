"""Folders that hold something before a job begins, and folders of several processes."""

import errno
import io
import json
import signal
import socket
import threading
import time

import fsspec
import jax
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

import sdejax.jobs.formats as formats
from sdejax.commands.main import main
from sdejax.jobs.ranges import NumberRange
from sdejax.jobs.shard_sink import ShardSink
from sdejax.jobs.sinks import Destination, EncodedImage
from sdejax.jobs.tar import Tar
from sdejax.model.snapshot import save
from sdejax.runtime.storage import Folder
from tests.jobs.pods import sample, started
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
    """Rejects a format that depends on the number of images only. If a job grows, its first images would be made again
    in shards. If a job in shards asks for a few images, they would be made again as PNG.
    """
    monkeypatch.setattr(formats, "_FEW", 4)
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
def test_the_sheet_has_the_first_images_of_all_starts(model, tmp_path, form):
    """Rejects a sheet of the images of this start: if a job continues, it would have only the last ones."""
    how = ("--format", form, "--shard-size", 3)
    for seeds in ("0-1", "0-7"):
        assert made(model, tmp_path / "in_two", "--seeds", seeds, *how) == 0
    assert made(model, tmp_path / "at_once", "--seeds", "0-7", *how) == 0
    one, other = ((tmp_path / name / "sheet.png").read_bytes() for name in ("in_two", "at_once"))
    assert one == other


def test_a_damaged_manifest_is_an_error(model, tmp_path, capsys):
    """Rejects treating it as missing: the shards of another prompt would count as this job's."""
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


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (["--out", "elsewhere"], "process 1 does not see what process 0 wrote there"),
        (["--prompt", "square"], 'prompt: of process 1 is "square", and of process 0 "red heart"'),
    ],
)
def test_a_process_with_another_folder_or_prompt_is_told(model, tmp_path, monkeypatch, other, told):
    """Another folder stands for the disk of another machine. Rejects half of the images in each folder with exit code
    0, and two prompts in one job.
    """
    monkeypatch.chdir(tmp_path)
    shared = ["--seeds", "0-7", "--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2]
    pair = [started(*sample(model, "out", *shared), "--process-id", i, *other[: 2 * i]) for i in range(2)]
    said = [process.communicate(timeout=100)[1] for process in pair]
    assert [process.returncode for process in pair] == [1, 2], said
    assert (
        said[1].startswith(f"error: {told}" if "prompt" in told else "error: --out='elsewhere': ") and told in said[1]
    )
    assert f"process 1 of 2 has ended: {said[1].removeprefix('error: ').partition(';')[0].strip()}" in said[0]
    assert all(text.count("error: ") == 1 for text in said) and not list(tmp_path.glob("*/.*"))


@pytest.mark.parametrize("which", [0, 1])
def test_an_error_of_one_process_is_one_sentence_in_the_other(model, tmp_path, which):
    """One process does not have the snapshot. Rejects jaxlib's stack trace if process 0 ends, and a minute until the
    other process notices that it is gone.
    """
    shared = ["--seeds", "0-7", "--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2]
    snapshots = ["nowhere" if i == which else model for i in range(2)]
    words = [sample(snapshot, tmp_path / "out", *shared) for snapshot in snapshots]
    began = time.monotonic()
    pair = [started(*words[i], "--process-id", i) for i in range(2)]
    said = [process.communicate(timeout=100)[1] for process in pair]
    assert time.monotonic() - began < 40
    assert pair[which].returncode == 2 and pair[1 - which].returncode == 1, said
    assert said[which].startswith("error: snapshot='nowhere': no such folder; ") and said[which].count("\n") == 1
    assert f"error: process {which} of 2 has ended: snapshot='nowhere': " in said[1 - which]
    assert all(text.count("error: ") == 1 and "***" not in text for text in said)


def test_a_port_that_is_taken_is_a_sentence(model, tmp_path):
    """Without our check jaxlib ends in a segmentation fault, or shares the port with another run."""
    with socket.create_server(("", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        process = started(*sample(model, tmp_path, "--coordinator", where, "--processes", 2, "--process-id", 0))
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.startswith(f"error: --coordinator='{where}': process 0 cannot listen there (") and said.count("\n") == 1


@pytest.mark.slow
def test_ctrl_c_ends_the_wait_for_the_others(model, tmp_path):
    """Rejects an end only when jaxlib returns, after the time limit."""
    where = f"127.0.0.1:{free_port()}"
    process = started(*sample(model, tmp_path, "--coordinator", where, "--processes", 2, "--process-id", 1))
    time.sleep(6)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) == -signal.SIGINT


def test_a_job_stops_in_order_if_standard_output_is_closed(model, tmp_path):
    """As by `| head -1`. Rejects an error that blames the folder, and an end within a shard."""
    words = sample(model, tmp_path, "--seeds", "0-199999", "--format", "tar", "--shard-size", 4, "--json")
    process = started(*words)
    assert process.stdout and process.stderr
    assert json.loads(process.stdout.readline())["images"] == 4
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(timeout=100) == 1, said
    assert said.count("error: ") == 1 and "error: standard output cannot be written (Broken pipe)" in said
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["images"] >= 8 and manifest["images"] % 4 == 0 and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("address", ["memory://patterns", ""])
def test_names_may_look_like_patterns(address, tmp_path):
    """Rejects `mv` and `rm` of the buckets' clients, which expand such names as patterns: the file would be lost."""
    folder = Folder.open(address or str(tmp_path / "out"))
    names = ["a*.png", "b?.png", "c[1].png", "plain.png"]
    with folder.created():
        for name in names:
            folder.write(name, name.encode())
    assert folder.sizes() == {name: len(name) for name in names}
    assert folder.read("c[1].png") == b"c[1].png"
    folder.remove("a*.png")
    assert sorted(folder.sizes()) == names[1:]


class _FullAtTheEnd(MemoryFileSystem):
    """A disk that is full when the last blocks of a tar, which are zeros, are written."""

    cachable, protocol, store, pseudo_dirs = False, "full_at_the_end", {}, [""]

    def _open(self, path, mode="rb", *args, **how):
        file = super()._open(path, mode, *args, **how)
        if mode == "wb":
            write = file.write

            def full(data):
                if len(data) > 512 and not any(bytes(data)[-1024:]):
                    raise OSError(errno.ENOSPC, "No space left on device")
                return write(data)

            file.write = full
        return file


def test_a_shard_that_cannot_be_closed_leaves_nothing():
    """Rejects forgetting the shard before it is closed: its file would stay on the full disk until the next start."""
    folder = Folder(_FullAtTheEnd(), "/out", "full:///out")
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(buffer, "png")
    sink = ShardSink(Tar(), Destination(folder))
    with folder.created():
        sink.missing([NumberRange(0, 0)])
        about = {"key": "000000", "seed": 0, "prompt": ""}
        sink.add(EncodedImage(0, buffer.getvalue(), about), NumberRange(0, 0))
        with pytest.raises(OSError, match="No space"):
            sink.close()
        sink.abandon()
    assert folder._all_sizes() == {}


@pytest.mark.slow
def test_processes_with_disks_of_their_own_keep_their_own_programs(model, tmp_path, monkeypatch):
    """As on the hosts of a pod. Rejects writing by process 0 only: the others would compile at every start."""
    monkeypatch.setenv("JAX_LOG_COMPILES", "1")
    said = []
    for number in range(2):
        shared = ["--seeds", "0-7", "--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2]
        words = sample(model, tmp_path / str(number), *shared)
        pair = [started(*words, "--cache", tmp_path / f"disk{i}", "--process-id", i) for i in range(2)]
        said = [process.communicate(timeout=200)[1] for process in pair]
        assert [process.returncode for process in pair] == [0, 0], said
    assert all("ompiling jit(_sample)" not in text for text in said), said


class _Far(MemoryFileSystem):
    """Each answer takes a while. `most` counts the answers awaited at once. Files named `full` cannot be written."""

    cachable, protocol, store, pseudo_dirs, most, now, full, lock = (
        False,
        "far",
        {},
        [""],
        0,
        0,
        "none",
        threading.Lock(),
    )

    def _open(self, path, mode="rb", *args, **how):
        if _Far.full in path and mode == "wb":
            raise OSError(errno.ENOSPC, "No space left on device")
        with _Far.lock:
            _Far.now += 1
            _Far.most = max(_Far.most, _Far.now)
        time.sleep(0.02)
        with _Far.lock:
            _Far.now -= 1
        return super()._open(path, mode, *args, **how)


def test_pictures_at_an_address_are_written_at_the_same_time(model, capsys, monkeypatch):
    """Rejects one after the other: 128 pictures took a minute in a bucket. If one cannot be written, the job ends with
    one sentence, and the same command makes what is missing.
    """
    fsspec.register_implementation("far", _Far, clobber=True)
    monkeypatch.setattr(_Far, "full", "000033")
    assert made(model, "far://out", "--seeds", "0-63", "--json") == 2
    said = capsys.readouterr()
    assert "error: out='far://out': cannot be written (No space left on device); what is there is kept" in said.err
    told = [json.loads(line)["file"].rpartition("/")[2] for line in said.out.splitlines()]
    assert told == [f"{seed:06d}.png" for seed in range(len(told))] and _Far.most > 4
    monkeypatch.setattr(_Far, "full", "none")
    assert made(model, "far://out", "--seeds", "0-63") == 0
    folder = Folder.open("far://out")
    names = {f"{seed:06d}.{kind}" for seed in range(64) for kind in ("png", "json")}
    assert folder.sizes().keys() == {*names, "sheet.png"} and folder._all_sizes() == folder.sizes()
    assert "images are done already" in capsys.readouterr().err


def test_a_list_of_edits_is_the_same_job_from_any_folder(model, tmp_path, monkeypatch, capsys):
    """Rejects the path as a part of the job's identity. With an unreadable line the job stays incomplete. If no line is
    readable, no folder is made. The index of a shard says of each edit what its line says.
    """
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "edits.jsonl").write_text('{"guide": "a.png", "strength": 0.3}\n{"guide": "a.png", "strength": 2.0}\n')
    how = ["--steps", "2", "--batch", "2", "--format", "tar", "--out", str(tmp_path / "out")]
    monkeypatch.chdir(tmp_path)
    assert main(["edit", model, "--manifest", "edits.jsonl", *how]) == 2
    monkeypatch.chdir("/")
    capsys.readouterr()
    assert main(["edit", model, "--manifest", str(tmp_path / "edits.jsonl"), *how, "--json"]) == 2
    said = capsys.readouterr()
    assert "1 of 1 images are done already\n1 failed\n" in said.err and json.loads(said.out)["failed"] == 1
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert not manifest["complete"] and manifest["images"] == 1 and manifest["versions"]["jax"] == jax.__version__
    (line,) = json.loads((tmp_path / "out" / "0000000000-0000000000.json").read_text())["index"]
    assert line["own"]["strength"] == 0.3 and line["own"].keys() == {"guide", "strength", "inputs"}
    (tmp_path / "edits.jsonl").write_text('{"guide": "a.png", "strength": 2.0}\n')
    assert main(["edit", model, "--manifest", str(tmp_path / "edits.jsonl"), *how[:-1], str(tmp_path / "none")]) == 2
    assert "error: nothing to do: 1 failed" in capsys.readouterr().err and not (tmp_path / "none").exists()


@pytest.mark.slow
def test_ctrl_c_on_process_0_lets_the_other_finish_its_shard(model, tmp_path):
    """Rejects an end of process 0 before the other has left: jaxlib would end that one within its shard."""
    shared = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2, "--format", "tar", "--shard-size", 40]
    words = sample(model, tmp_path, "--seeds", "0-199999", *shared)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell inherits that it is ignored
    pair = [started(*words, "--process-id", i) for i in range(2)]
    while not list(tmp_path.glob("*.tar")):
        assert all(process.poll() is None for process in pair), pair[0].communicate()
        time.sleep(0.1)
    pair[0].send_signal(signal.SIGINT)
    said = [process.communicate(timeout=30)[1] for process in pair]
    assert [process.returncode for process in pair] == [130, 1], said
    assert said[0].endswith("stopped\n")
    assert said[1] == "error: process 0 of 2 has ended: stopped; the same command makes what is missing\n"
    assert not list(tmp_path.glob(".*")) and len(list(tmp_path.glob("*.tar"))) == len(list(tmp_path.glob("0*.json")))
