"""The training program on a dozen committed emoji: runs that are stopped, killed, spread out, broken, and bundled."""

import dataclasses
import os
import random
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from PIL import Image

from sdejax.commands.main import main
from sdejax.media.images import to_array
from sdejax.model.snapshot import load_snapshot
from sdejax.training.config import load_config
from sdejax.training.data.batches import load
from sdejax.training.setup import set_up
from tests.train_run import EMOJI, finish, free_port, losses, rows, start, write_config
from train.bundle import bundle, nearest_training_images
from train.bundle import main as bundle_main


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 20 steps that nothing disturbs, on one device."""
    folder = tmp_path_factory.mktemp("whole")
    config = write_config(folder, "run")
    words = ["--sample-every", "20", "--validation", str(EMOJI), "--validate-every", "10", "--ema", "0.9", "0.99"]
    said = finish(start(config, *words, "--checkpoint-every", "20", "--profile"))
    return folder / "run", said


def _wait(process, condition):
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_that_is_stopped_and_killed_goes_on_bit_for_bit(whole, tmp_path):
    """SIGTERM, then kill -9 at a random moment, and each time the same command again.

    Rejects an optimiser or average that starts anew, random numbers that go on from elsewhere, batches that are drawn
    again or left out, a checkpoint that is taken before it is whole, and losses that a stop takes out of their row.
    """
    config, folder = write_config(tmp_path, "run"), tmp_path / "run"

    def reached(step):
        return (folder / "metrics.jsonl").is_file() and max(losses(folder), default=0) >= step

    process = start(config)
    _wait(process, lambda: reached(3))
    process.send_signal(signal.SIGTERM)
    said = finish(process, 130)
    stopped = int(re.search(r"stopped at step (\d+); the same command goes on", said)[1])
    assert (folder / "checkpoints" / str(stopped)).is_dir()
    moment = random.Random()
    process, step = start(config), moment.randrange(stopped + 1, 20)
    _wait(process, lambda: reached(step))
    time.sleep(0.1 * moment.random())
    process.send_signal(signal.SIGKILL)
    process.wait()
    finish(start(config))
    assert losses(folder) == losses(whole[0])
    for a, b in zip(_parameters(folder), _parameters(whole[0]), strict=True):
        np.testing.assert_array_equal(a, b)


def _parameters(folder):
    return jax.tree.leaves(load_snapshot(folder / "snapshot").params)


def test_a_run_that_starts_from_a_snapshot_takes_over_its_model(whole, tmp_path):
    """Its weights, bit for bit, in the parameters and every average; its network and words, whatever the config has.

    Rejects fresh weights, averages that begin elsewhere, and tokens of the new captions' own vocabulary, which would
    mean other words.
    """
    snapshot = whole[0] / "snapshot"
    given = load_snapshot(snapshot)
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(next(EMOJI.glob("*.png")), few / "a.png")
    (few / "captions.jsonl").write_text('{"file": "a.png", "caption": "heart zebra"}\n')
    config = dataclasses.replace(load_config(write_config(tmp_path, "more", few)), start=str(snapshot), ema=(0.9, 0.99))
    config = dataclasses.replace(config, network=dataclasses.replace(config.network, channels=32))
    setup = set_up(config)
    state = setup.fresh_state()
    for tree in (state.params, *state.ema):
        for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(given.params), strict=True):
            np.testing.assert_array_equal(a, b)
    assert setup.model.vocabulary == given.vocabulary
    np.testing.assert_array_equal(setup.conditions, given.vocabulary.encode(["heart zebra"]))
    with pytest.raises(ValueError, match=r"^start=.*captions=False"):
        set_up(dataclasses.replace(config, captions=False))


@pytest.mark.slow
def test_the_same_curve_on_any_devices_and_processes(whole, tmp_path):
    """One device; four; and two processes with two devices each, the state spread over fsdp: data 2 x fsdp 2.

    1e-5 relative over 20 steps: sums in another order. Rejects noise, dropout or times drawn for each device, a loss
    averaged over one process alone, and rows of a batch in an order that depends on the processes: each by 1e-2 or so.
    """
    once = ["--checkpoint-every", "20"]
    four = start(write_config(tmp_path, "four"), *once, devices=4)
    words = [*once, "--fsdp", "2", "--sample-every", "20", "--validation", str(EMOJI)]  # what needs every process, too
    both = start(write_config(tmp_path, "processes"), *words, devices=2, processes=2)
    finish(four)
    assert "on 4 devices" in finish(both)
    expected = losses(whole[0])
    assert sorted(expected) == list(range(1, 21))
    for name in ("four", "processes"):
        found = losses(tmp_path / name)
        assert sorted(found) == sorted(expected)
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-5, err_msg=name)
    validated = [row["validation"] for row in (rows(whole[0])[-1], rows(tmp_path / "processes")[-1])]
    np.testing.assert_allclose(list(validated[1].values()), list(validated[0].values()), rtol=1e-4)
    assert (tmp_path / "processes" / "samples-0000020.png").is_file()


@pytest.mark.slow
def test_a_process_does_not_wait_for_ever(tmp_path):
    config = write_config(tmp_path, "alone")
    told = ["--processes.coordinator", f"127.0.0.1:{free_port()}", "--processes.count", "2", "--processes.index", "0"]
    began = time.monotonic()
    process = start(config, *told, "--processes.timeout", "5")
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert time.monotonic() - began < 60
    assert not (tmp_path / "alone").exists()


def test_a_run_leaves_what_the_docs_say(whole):
    folder, said = whole
    model = load_snapshot(folder / "snapshot")
    assert model.vocabulary is not None
    assert "heart" in model.vocabulary.words
    assert (folder / "snapshot-0.99" / "model.json").is_file()
    sheet = Image.open(folder / "samples-0000020.png")
    assert sheet.height > 3 * 16  # raw weights and two moving averages
    validated = [row for row in rows(folder) if "validation" in row]
    assert [row["step"] for row in validated] == [10, 20]
    assert set(validated[0]) == {"step", "validation", "validation_of_weights", "validation_of_ema_0.99"}
    assert list((folder / "tensorboard").glob("events*"))
    assert list((folder / "profile").rglob("*.xplane.pb"))
    assert "20 of 20" in said


def test_the_config_beside_a_run_is_that_run(whole):
    # The words on its command line are in it, too. Rejects tuples that come back as lists, and a process that is lost.
    given = load_config(whole[0].with_suffix(".py"))
    kept = load_config(whole[0] / "config.json")
    words = {
        "sample_every": 20,
        "validation": str(EMOJI),
        "validate_every": 10,
        "checkpoint_every": 20,
        "ema": (0.9, 0.99),
    }
    assert kept == dataclasses.replace(given, **words)
    hash(kept)


@pytest.mark.slow
def test_a_dry_run_says_what_a_run_takes_and_trains_nothing(tmp_path, capsys):
    config = write_config(tmp_path, "dry")
    assert main(["train", str(config), "--dry-run", "--fsdp", "2"]) == 0
    said = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert not (tmp_path / "dry").exists()
    assert said["steps per epoch"] == "1.5"  # 12 images, 8 a step
    assert said["devices"].endswith("data 2, fsdp 2")
    model = set_up(load_config(config)).model
    assert said["parameters"] == f"{model.parameter_count / 1e6:.3f} M"
    # Parameters, average and Adam's two moments: 4 numbers of 4 bytes each, of which the spread ones are halved.
    state = float(said["state per device"].split()[0]) * 2**20 / (16 * model.parameter_count)
    share = float(re.search(r"\((\d+)% of the numbers\)", said["sharding"])[1]) / 100
    assert state == pytest.approx(1 - share / 2, abs=0.02)
    assert float(said["FLOPs per step"]) > 6 * 8 * model.parameter_count  # each weight is used at least once, thrice


@pytest.mark.slow
def test_a_run_that_stays_broken_stops_and_names_the_last_good_checkpoint(whole, tmp_path):
    """Noise levels that are no numbers: three steps are skipped, no parameter is lost to them."""
    shutil.copytree(whole[0], tmp_path / "run")
    words = ["--steps", "40", "--skips-allowed", "2", "--objective.level-mean", "nan", "--ema", "0.9", "0.99"]
    said = finish(start(write_config(tmp_path, "run"), *words), 1)
    assert re.search(r"error: 3 steps in a row were not finite, the last of them 23\n", said)
    assert f"the last good checkpoint is {tmp_path / 'run' / 'checkpoints' / '20'}" in said
    assert rows(tmp_path / "run")[-1]["loss"] is None


def test_images_that_cannot_be_decoded_are_named_and_too_many_stop_the_run(tmp_path):
    data = tmp_path / "data"
    shutil.copytree(EMOJI, data)
    for name in ("0144.png", "3352.png"):
        os.truncate(data / name, 300)
    said = finish(start(write_config(tmp_path, "run", data), "--undecodable", "0.1"), 1)
    assert said.count("warning: 0144.png cannot be decoded") == 1
    assert re.search(r"error: 2 of 12 images \(16.67%\) cannot be decoded:\s+0144\.png\s+3352\.png", said)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--batch", "6", "--accumulate", "4"], "accumulate=4: must divide the batch, 6"),
        (["--batch", "6"], "batch=6: must be a multiple of 4"),
        (["--fsdp", "3"], "fsdp=3: must divide the number of devices, 4"),
        (["--steps", "0"], "steps=0: must be at least 1"),
        (["--ema", "1.0"], r"ema=\(1.0,\): must be"),
        (["--optimiser.learning-rate", "-1"], "learning_rate=-1.0: must be at least 0"),
        (["--data", "/nowhere"], "data='/nowhere': no such"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(words, named, tmp_path, capsys):
    assert main(["train", str(write_config(tmp_path, "run")), *words]) == 2
    error = capsys.readouterr().err
    assert re.search(named, error)
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def bundled(whole):
    """The config of the whole run. Its held-out images are its training images."""
    return load_config(whole[0] / "config.json")


def test_the_nearest_training_image_and_how_far_it_is(bundled):
    """The distance is 0.01 for a training image made brighter by 0.01, and 0 for a held-out image that is trained on.

    The tolerance 1e-4 is the error of the expanded square in float32. Rejects a sum instead of the mean (100 times as
    large), the mean of squares without the root (0.0001), and the nearest image by another metric, such as the inner
    product (which finds the image with the largest norm).
    """
    setup = set_up(bundled)
    training = to_array(load(setup.images, range(len(setup.images.names)), setup.model.shape, bundled.crop))
    nearest = nearest_training_images(setup, training + np.float32(0.01))
    np.testing.assert_array_equal(nearest.images, training)
    np.testing.assert_allclose(nearest.distances, 0.01, rtol=1e-4)
    np.testing.assert_allclose(nearest.held_out, 0.0, atol=1e-7)


@pytest.mark.slow
def test_the_bundle_has_the_average_and_states_its_loss(bundled, tmp_path):
    """The weights are the run's moving average in half precision, and the card states the loss of these weights.

    The relative tolerance 2^-11 is the rounding of half precision. Rejects the raw weights instead of their average
    (they differ by 1e-3 of a weight and more), and a card about other weights than those in the folder.
    """
    out = tmp_path / "bundle"
    bundle(bundled, out, licence="a licence", note="a note")
    model, average = load_snapshot(out), load_snapshot(bundled.folder / "snapshot")
    for a, b in zip(jax.tree.leaves(model.params), jax.tree.leaves(average.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=2**-11, atol=2**-24)
    card = (out / "README.md").read_text(encoding="utf-8")
    validation = set_up(bundled).validation()
    for level, loss in validation.loss(model.params).items():
        assert f"| {level} | {loss:.5f} |" in card
    assert "| Licence | a licence |" in card
    assert "| Note | a note |" in card
    assert "| Steps | 20 of 8 images |" in card
    for picture in ("samples", "nearest", "curves"):
        assert (out / f"{picture}.png").is_file()
        assert f"]({picture}.png)" in card


def test_a_run_without_a_checkpoint_is_refused(tmp_path, monkeypatch, capsys):
    """There is one sentence, the exit code is 2, and no folder is written."""
    config = write_config(tmp_path, "none")
    monkeypatch.setattr("sys.argv", ["train.bundle", str(config), str(tmp_path / "out")])
    assert bundle_main() == 2
    said = capsys.readouterr().err
    assert said.startswith("error: out=")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
