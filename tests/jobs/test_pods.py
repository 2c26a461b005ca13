"""Many images over devices and processes: the same images, each once, even if processes are killed, lost or late."""

import hashlib
import json

import jax
import numpy as np
import pytest
from PIL import Image

import sdejax as sj
from sdejax.commands.main import main
from sdejax.media.images import to_image
from sdejax.model.snapshot import save
from sdejax.runtime.program_cache import keep_programs
from tests.jobs.pods import WORDS, images_in, sample, started, together
from tests.tiny import PROMPTS, tiny_model

SAME_BITS = "--batch-invariant"  # without it the last bits of a CPU depend on the number of devices


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("pods") / "model"
    save(path, tiny_model())
    return str(path)


@pytest.fixture(scope="module")
def alone(model, tmp_path_factory):
    """The images of seeds 0 to 39, made by one process on one device."""
    out = tmp_path_factory.mktemp("alone")
    process = started(*sample(model, out, SAME_BITS, "--seeds", "0-39", "--format", "tar", "--shard-size", 6))
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return images_in(out)


@pytest.mark.slow
def test_the_images_are_the_same_on_any_devices_and_processes(model, alone, tmp_path):
    """One process on 1 or 4 devices, or two processes on 2 each: bit for bit. Rejects noise that depends on the device,
    the batch or the process.
    """
    assert len(alone) == 40 and np.ptp(np.stack(list(alone.values())), axis=0).max() > 50
    how = (SAME_BITS, "--seeds", "0-39", "--format", "tar", "--shard-size", 6)
    four = started(*sample(model, tmp_path / "four", *how), devices=4)
    assert four.wait(timeout=200) == 0, four.communicate()
    pair = together(2, *sample(model, tmp_path / "pair", *how), devices=2)
    said = [process.communicate(timeout=200) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert "40 images written" in said[0][0] and "images written" not in said[1][0]
    for other in (images_in(tmp_path / "four"), images_in(tmp_path / "pair")):
        assert other.keys() == alone.keys()
        for key, image in alone.items():
            np.testing.assert_array_equal(other[key], image)


def test_python_makes_the_images_of_the_command(model, alone):
    found = {}
    how = {"sampler": sj.Sampler(steps=2), "batch": 2, "devices": jax.devices()[1:3]}
    with sj.batch_invariant():
        batches = sj.generate(sj.load(model), range(40), prompt="red heart", **how)
    for seeds, images in batches:
        found |= {f"{seed:06d}": np.asarray(to_image(image)) for seed, image in zip(seeds, images, strict=True)}
    assert found.keys() == alone.keys()
    for key, image in alone.items():
        np.testing.assert_array_equal(found[key], image)


def test_another_batch_agrees_to_1e_5_and_more_seeds_continue_a_job(model, alone, tmp_path):
    # 1e-5 changes the 8 bits of a PNG only where it crosses a rounding edge. Seeds that are done are not made again.
    assert main(sample(model, tmp_path, "--seeds", "3-21", "--format", "tar", "--shard-size", 8)) == 0
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")}
    assert len(before) == 3
    more = ("--seeds", "30-39,0-29", "--format", "tar", "--shard-size", 8, "--batch", 5)
    assert main(sample(model, tmp_path, *more)) == 0
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in before} == before
    found = images_in(tmp_path)
    assert found.keys() == alone.keys()
    for key, image in alone.items():
        assert np.abs(found[key].astype(int) - image).max() <= 1


def test_a_given_batch_is_used_on_any_number_of_devices(model, tmp_path, capsys):
    """Rejects a batch that is reduced to the one image that each of four devices needs: its last bits would differ."""
    words = ["--seeds", "0-2", "--cache", tmp_path / "programs", "--warmup", "--json"]
    assert main(sample(model, tmp_path / "out", *words)) == 0
    keep_programs("none")
    assert json.loads(capsys.readouterr().out)["images_at_once"] == 2 * len(jax.devices())


def test_another_job_in_the_same_folder_is_refused(model, tmp_path, capsys):
    how = ("--seeds", "0-3", "--format", "tar")
    assert main(sample(model, tmp_path, *how)) == 0
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert main([*sample(model, tmp_path, *how), "--prompt", "square"]) == 2
    assert 'holds images of another job; prompt was "red heart", and is "square"' in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_seed_that_fails_costs_no_other_image(model, tmp_path, capsys):
    """The guidance is so large that some seeds overflow float32. Rejects a job that ends at the first of them: no rerun
    would get beyond it. But if the very first image fails, the model is at fault, and nothing is made.
    """
    sampler = sj.Sampler(steps=1, stochasticity=0.0)
    loaded, size = sj.load(model), {}
    for seeds, images in sj.generate(loaded, range(12), prompt="red heart", guidance=1e30, sampler=sampler, batch=2):
        size |= dict(zip(seeds, np.abs(images.astype(float)).max((1, 2, 3)), strict=True))
    order = sorted(size, key=size.__getitem__)
    scale = 1e30 * float(np.finfo(np.float32).max) / np.sqrt(size[order[7]] * size[order[8]])
    words = ["sample", model, "--prompt", "red heart", "--steps", 1, "--stochasticity", 0, "--batch", 2]
    words += ["--guidance", scale, "--format", "tar", "--shard-size", 4, "--out", tmp_path / "out", "--seeds"]
    words = list(map(str, words))
    assert main([*words, str(order[0])]) == 0
    for _ in range(2):  # a rerun continues beyond the seeds that fail again
        capsys.readouterr()
        assert main([*words, "0-11"]) == 2
        said = capsys.readouterr().err
        assert all(f"error: {seed:06d}: images: a value is NaN or infinite" in said for seed in order[8:]), said
        assert "4 failed" in said
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert not manifest["complete"] and manifest["images"] == 8
    assert {seed for entry in manifest["finished"] for seed in entry["missing"]} <= set(order[8:])
    bad = order[8]
    assert main([*words[:-3], "--out", str(tmp_path / "bad"), "--seeds", f"{bad}-{bad + 3}"]) == 2
    assert f"error: {bad:06d}: images: " in capsys.readouterr().err and not (tmp_path / "bad").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("form", "seeds", "count"), [("tar", "0-1999", 2), ("png", "0-1199", 1)])
def test_killed_ten_times_no_image_is_lost_or_twice_or_damaged(model, tmp_path, form, seeds, count):
    """kill -9 at random moments, of two processes that write tar and of one that writes PNG; then the same command."""
    words = sample(model, tmp_path / "out", "--seeds", seeds, "--format", form, "--shard-size", 7)
    process = started("10", count, *words, module="tests.kill_run")
    out, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert int(next(filter(str.isdigit, out.splitlines()))) >= 8  # the last run may find everything done
    last = int(seeds.partition("-")[2])
    expected = {f"{seed:06d}" for seed in range(last + 1)}
    if form == "tar":
        assert images_in(tmp_path / "out").keys() == expected
        left = list((tmp_path / "out").glob(".*"))
    else:
        for key in expected:
            record = json.loads((tmp_path / "out" / f"{key}.json").read_text())
            data = (tmp_path / "out" / f"{key}.png").read_bytes()
            assert record["png_sha256"] == hashlib.sha256(data).hexdigest()
        left = [path for path in (tmp_path / "out").iterdir() if path.stem not in {*expected, "sheet"}]
    assert left == []  # the files that killed processes left are removed


def manifest_of(folder, verb):
    """Eleven edits of two pictures. The picture of the seventh, which is process 1's, does not exist yet."""
    for name in ("a", "b"):
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    picture, texts = ("guide", {"prompt": "square"}) if verb == "edit" else ("image", {})
    lines = [{picture: f"{'ab'[i % 2]}.png", "seed": i, "name": f"n{i}", **texts} for i in range(11)]
    if verb == "sync":
        lines = [line | {"source": "red heart", "target": PROMPTS[1 + i % 3]} for i, line in enumerate(lines)]
    lines[6][picture] = "later.png"
    path = folder / "edits.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["edit", "sync"])
def test_processes_share_a_manifest(model, tmp_path, verb, monkeypatch):
    """Two processes make each edit once, bit for bit as one process does. The process that misses a picture says so,
    and a later start makes the edit. Rejects noise that depends on the process, and a process that ends with exit code
    2 before process 0 has finished: a launcher might then end both.

    A later start compiles nothing. Rejects masks that are checked on the devices, after all that these have to do.
    """
    monkeypatch.setenv("JAX_LOG_COMPILES", "1")
    words = [verb, model, "--manifest", manifest_of(tmp_path, verb), *WORDS, SAME_BITS]
    one = started(*words, "--out", tmp_path / "alone")
    assert "error: n6: " in one.communicate(timeout=200)[1] and one.returncode == 2
    pair = together(2, *words, "--out", tmp_path / "pair")
    assert pair[1].wait(timeout=200) == 2 and (tmp_path / "pair" / "sheet.png").exists()
    said = [process.communicate(timeout=200)[1] for process in pair]
    assert pair[0].returncode == 2 and said[0].splitlines()[-2] == "1 failed", said  # counted over all processes
    assert ["error: n6: " in text for text in said] == [False, True]
    expected = {path.name for path in (tmp_path / "alone").glob("n*.png")}
    assert len(expected) == 10 == len(list((tmp_path / "pair").glob("n*.png")))
    for name in expected:
        alone, shared = (np.asarray(Image.open(tmp_path / kind / name)) for kind in ("alone", "pair"))
        np.testing.assert_array_equal(shared, alone)
    Image.open(tmp_path / "a.png").save(tmp_path / "later.png")
    before = {name: (tmp_path / "pair" / name).stat().st_mtime_ns for name in expected}
    pair = together(2, *words, "--out", tmp_path / "pair")
    said = [process.communicate(timeout=200)[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert {name: (tmp_path / "pair" / name).stat().st_mtime_ns for name in expected} == before
    assert (tmp_path / "pair" / "n6.png").exists()
    assert all("ompiling" not in text for text in said), said


@pytest.mark.slow
def test_all_processes_load_the_programs_that_one_has_compiled(model, alone, tmp_path, monkeypatch):
    """Also the second process, whose devices have other numbers: jax's own cache would serve only the first. No process
    compiles anything. Rejects a conversion of seeds by jax, or a trial of XLA's options, which take 25 ms each.
    """
    monkeypatch.setenv("JAX_LOG_COMPILES", "1")
    words = [*WORDS, SAME_BITS, "--cache", tmp_path / "cache", "--json"]
    out, said = started("warmup", model, "--shape", "8x8x3", *words).communicate(timeout=200)
    assert json.loads(out)["compiled"] == 2 and "ompiling jit(_sample)" in said and "ompiling jit(_keys)" in said, said
    how = ("--prompt", "red heart", "--seeds", "0-39", "--format", "tar", "--shard-size", 6, "--out", tmp_path / "out")
    for job in (["warmup", model], ["sample", model, *how]):
        pair = together(2, *job, *words)
        told = [process.communicate(timeout=200) for process in pair]
        assert [process.returncode for process in pair] == [0, 0], told
        assert all("ompiling" not in said for _, said in told), told
        assert told[0][0].startswith('{"') and '"images_at_once"' not in told[1][0]
    found = images_in(tmp_path / "out")
    assert found.keys() == alone.keys()
    for key, image in alone.items():
        np.testing.assert_array_equal(found[key], image)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--processes", "2", "--process-id", "0"], "--processes=2, --process-id=0: need --coordinator"),
        (["--coordinator", "here:80", "--processes", "2", "--process-id", "2"], "--process-id=2: must be host:port"),
        (["--coordinator", "here", "--processes", "2", "--process-id", "0"], "--coordinator='here', --processes=2"),
    ],
)
def test_options_that_do_not_suffice_are_named(model, tmp_path, capsys, words, told):
    assert main([*sample(model, tmp_path / "out"), *words]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_failed_edit_is_left_out_of_its_shard_and_made_later(model, tmp_path, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    lines = [{"guide": "a.png", "seed": seed, "name": f"edit.{seed}"} for seed in range(5)]
    lines[2]["guide"] = "later.png"
    manifest = tmp_path / "edits.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    words = ["edit", model, "--manifest", manifest, *WORDS, "--format", "tar", "--out", tmp_path / "out"]
    assert main([*map(str, words)]) == 2
    assert "error: edit.2: image=" in capsys.readouterr().err
    Image.open(tmp_path / "a.png").save(tmp_path / "later.png")
    assert main([*map(str, words)]) == 0
    assert images_in(tmp_path / "out").keys() == {f"edit%2E{seed}" for seed in range(5)}
