"""A process that is lost, hangs, or is asked to stop: the others end in order, and say why."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdejax.model.snapshot import save
from tests.jobs.pods import images_in, sample, started, together
from tests.tiny import tiny_model
from tests.train_run import free_port, on_fake_devices


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("pods") / "model"
    save(path, tiny_model())
    return str(path)


@pytest.mark.slow
def test_a_lost_process_is_named_and_the_others_end_in_order(model, tmp_path):
    words = sample(model, tmp_path / "out", "--seeds", "0-199999", "--shard-size", 40, "--timeout", 10)
    pair = together(2, *words)
    while not list((tmp_path / "out").glob("*.tar")):
        assert all(process.poll() is None for process in pair), pair[0].communicate()
        time.sleep(0.1)
    pair[1].send_signal(signal.SIGKILL)
    began = time.monotonic()
    out, said = pair[0].communicate(timeout=120)
    assert pair[0].returncode == 1, said
    assert "error: process 1 of 2 is gone; the same command makes what is missing" in said
    assert time.monotonic() - began < 60
    assert len(list((tmp_path / "out").glob(".*"))) <= 1  # the unfinished file of the killed process
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["images"] > 0 and not manifest["complete"]
    # Rejects a count that includes the images in the unfinished shard of the killed process.
    assert (
        f"{manifest['images']} images written" in out and len(images_in(tmp_path / "out", False)) == manifest["images"]
    )


def test_missing_devices_are_one_sentence(model, tmp_path):
    words = sample(model, tmp_path / "out")
    run = subprocess.run(
        [sys.executable, "-m", "sdejax", *words],
        env={**os.environ, "JAX_PLATFORMS": "nosuch"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2 and run.stderr.startswith("error: devices: ") and run.stderr.count("\n") == 1, run.stderr


@pytest.mark.slow
def test_a_process_that_never_comes_is_named(model, tmp_path):
    port = free_port()
    words = sample(model, tmp_path / "out", "--coordinator", f"127.0.0.1:{port}", "--processes", 3, "--timeout", 4)
    pair = [started(*words, "--process-id", index) for index in (0, 2)]
    for process in pair:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 1
        assert said.strip().splitlines() == ["error: process 1 did not come within 4 seconds"]
    assert not (tmp_path / "out").exists()


# Another process of the run, which ends or hangs as soon as it has joined.
JOINED = """
import os, sys, time
from sdejax.runtime.peers import Peers
from sdejax.runtime.distributed import Processes, start_processes
start_processes(Processes("auto", sys.argv[1], 2, 1, 9), independent=True)
if sys.argv[2] == "ends":
    os._exit(0)
Peers(9).start_devices()
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "told"), [("ends", "process 1 of 2 is gone"), ("hangs", "process 1 has made nothing for 4 seconds")]
)
def test_a_process_that_joins_and_does_nothing_is_named_within_the_limit(model, tmp_path, other, told):
    """jax would wait two minutes for the devices of a process that has ended, and for ever for one that hangs."""
    where = f"127.0.0.1:{free_port()}"
    silent = on_fake_devices(1, [sys.executable, "-c", JOINED, where, other])
    words = ["--coordinator", where, "--processes", 2, "--process-id", 0, "--timeout", 4, "--format", "tar"]
    began = time.monotonic()
    process = started(*sample(model, tmp_path / "out", "--seeds", "0-7", *words))
    _, said = process.communicate(timeout=100)
    seconds = time.monotonic() - began
    silent.kill()
    silent.communicate()
    assert process.returncode == 1 and said.count("error: ") == 1, said
    assert f"error: {told}; the same command makes what is missing" in said
    assert "Traceback" not in said and seconds < 60.0


def test_if_one_process_is_asked_to_stop_all_end_in_order_and_name_it(model, tmp_path):
    pair = together(2, *sample(model, tmp_path, "--seeds", "0-199999", "--shard-size", 40))
    while not list(tmp_path.glob("*.tar")):
        assert all(process.poll() is None for process in pair), pair[0].communicate()
        time.sleep(0.05)
    pair[1].terminate()
    said = [process.communicate(timeout=60)[1] for process in pair]
    assert [process.returncode for process in pair] == [1, 1], said
    assert "error: process 1 of 2 was asked to stop; the same command makes what is missing" in said[0]
    assert "error: asked to stop; " in said[1]
    assert not list(tmp_path.glob(".*"))  # both have finished their shards
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {entry["file"] for entry in manifest["finished"]} == {path.name for path in tmp_path.glob("*.tar")}
    assert {entry["images"] for entry in manifest["finished"]} == {40} and not manifest["complete"]


def test_a_process_that_is_asked_to_stop_finishes_its_shard(model, tmp_path):
    process = started(*sample(model, tmp_path, "--seeds", "0-199999", "--shard-size", 40))
    while not list(Path(tmp_path).glob("*.tar")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: asked to stop; the same command makes what is missing" in said
    assert not list(tmp_path.glob(".*"))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {entry["images"] for entry in manifest["finished"]} == {40}
    assert {entry["file"] for entry in manifest["finished"]} == {path.name for path in tmp_path.glob("*.tar")}
