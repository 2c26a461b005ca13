"""Programs from a folder give the bits of newly compiled ones. None serves another job, and damage does no harm."""

import errno
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import sdejax as sj
from sdejax.commands.main import main
from sdejax.model.snapshot import save
from sdejax.runtime import jax_private
from sdejax.runtime import program_cache as programs
from sdejax.runtime.program_cache import kept_programs
from sdejax.runtime.storage import Folder
from tests.runtime.programs import draw, files, opened
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    path = tmp_path_factory.mktemp("programs") / "model"
    save(path, tiny_model())
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_program_from_the_folder_gives_the_same_bits_on_devices_with_other_numbers(cache, count):
    """Rejects programs that are bound to the numbers of their devices: those of a pod's processes differ."""
    sampler = sj.Sampler(steps=2)
    expected = draw(jax.devices()[:count], sampler=sampler)
    first = opened(cache)
    np.testing.assert_array_equal(draw(jax.devices()[:count], sampler=sampler), expected)
    assert (first.compiled, first.loaded, len(files(cache))) == (1, 0, 1)
    second = opened(cache)
    np.testing.assert_array_equal(draw(jax.devices()[2 : 2 + count], sampler=sampler), expected)
    np.testing.assert_array_equal(draw(jax.devices()[1 : 1 + count], sampler=sampler), expected)
    assert (second.compiled, second.loaded) == (0, 2)


def test_other_values_share_a_program_and_other_shapes_and_constants_do_not(cache):
    found = opened(cache)
    first = draw()
    other = draw(mean=-0.2)
    assert found.compiled == 1 and np.abs(other - first).max() > 0.1
    draw(sampler=sj.Sampler(steps=3, stochasticity=0.0))
    draw(sampler=sj.Sampler(steps=2))
    draw(std=np.full((2, 3), 0.5, np.float32))
    draw(batch=3)
    draw(jax.devices()[:2], batch=1)
    assert (found.compiled, found.loaded, len(files(cache))) == (6, 0, 6)


def test_a_program_without_a_lasting_name_is_not_kept(cache):
    """A function within a function: its name does not determine what it does."""

    def halves(sde, start, steps):
        return start * 0.5 ** np.arange(steps, dtype=np.float32)

    found = opened(cache)
    images = draw(sampler=sj.Sampler(steps=2, grid=halves))
    assert (found.compiled, files(cache)) == (1, [])
    np.testing.assert_array_equal(draw(sampler=sj.Sampler(steps=2, grid=(1.0, 0.5))), images)


def signed(data):
    return hashlib.sha256(data).digest() + data


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-7],
        lambda data: signed(b"not a pickle"),
        lambda data: signed(pickle.dumps((b"not an executable", None, [0]))),
    ],
    ids=["cut", "no pickle", "no executable"],
)
def test_a_damaged_program_is_compiled_again(cache, damage):
    opened(cache)
    expected = draw()
    (file,) = files(cache)
    file.write_bytes(damage(file.read_bytes()))
    again = opened(cache)
    np.testing.assert_array_equal(draw(), expected)
    assert (again.compiled, again.loaded) == (1, 0)
    mended = opened(cache)
    np.testing.assert_array_equal(draw(), expected)
    assert (mended.compiled, mended.loaded) == (0, 1)


def draw_without_files(cache, job):
    """The images when all files are removed after prefetching, and how many programs were prefetched."""
    found = opened(cache, job)
    for _, loading in found._prefetch._loading.values():
        loading.exception()
    for file in files(cache):
        file.unlink()
    images = draw()
    return images, found.loaded


def test_the_programs_that_a_job_used_last_time_are_prefetched(cache):
    opened(cache, "mine")
    draw(batch=3)
    expected = draw()
    images, loaded = draw_without_files(cache, "mine")
    np.testing.assert_array_equal(images, expected)
    assert loaded == 1


def test_the_programs_of_another_job_are_not_prefetched(cache):
    opened(cache, "mine")
    expected = draw()
    images, loaded = draw_without_files(cache, "another")
    np.testing.assert_array_equal(images, expected)
    assert loaded == 0


def note(*programs):
    return lambda name: signed(json.dumps([[name if at is None else at, places] for at, places in programs]).encode())


@pytest.mark.parametrize(
    "told",
    [
        lambda name: b"cut",
        lambda name: signed(b"[1"),
        lambda name: signed(b"{}"),
        lambda name: signed(b"[[[], [0]]]"),
        note((None, [99])),
        note((None, [1])),
        note((None, [0, 1])),
        note(("none.program", [0])),
        note(("about.json", [0]), (None, [0])),
    ],
    ids=[
        "cut",
        "no json",
        "no list",
        "no name",
        "no such place",
        "another place",
        "two places",
        "no such program",
        "no program",
    ],
)
def test_a_wrong_note_of_the_programs_of_a_job_is_harmless_and_corrected(cache, told):
    """Rejects a program on other devices than its arguments, and an exception that ends the job."""
    opened(cache, "mine")
    expected = draw()
    (file,) = files(cache)
    (job,) = cache.glob("*/job-*.json")
    right = job.read_bytes()
    job.write_bytes(told(file.name))
    found = opened(cache, "mine")
    np.testing.assert_array_equal(draw(), expected)
    assert found.compiled + found.loaded == 1
    assert job.read_bytes() == right


@pytest.mark.slow
def test_commands_name_their_jobs_by_verb_snapshot_and_images(snapshot, cache, tmp_path):
    def run(*words):
        assert main([*words, "--steps", "2", "--stochasticity", "0", "--cache", str(cache)]) == 0
        return len(list(cache.glob("*/job-*.json")))

    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    assert run("sample", snapshot, "--batch", "2", "--out", str(tmp_path / "1")) == 1
    assert run("sample", snapshot, "--batch", "2", "--out", str(tmp_path / "2"), "--seeds", "7") == 1
    found = kept_programs()
    assert found is not None and (found.compiled, found.loaded) == (0, 2)  # the images, and their keys
    assert run("sample", snapshot, "--batch", "3", "--out", str(tmp_path / "3")) == 2
    assert run("edit", snapshot, str(tmp_path / "a.png"), "--out", str(tmp_path / "4")) == 3


@pytest.mark.slow
def test_a_second_start_with_a_solver_of_diffrax_compiles_nothing(snapshot, cache, tmp_path):
    """Rejects checks within the program that call Python: such a program cannot be written."""
    words = [sys.executable, "-m", "sdejax", "sample", snapshot, "--batch", "1", "--cache", str(cache)]
    words += ["--solver", "shark", "--tolerance", "0.5"]  # adaptive, with a Levy area: diffrax checks all of it
    logged = {**os.environ, "JAX_LOG_COMPILES": "1"}
    logged.pop("EQX_ON_ERROR", None)  # a command in this process has set it

    def sampled(out):
        run = subprocess.run([*words, "--out", str(out)], env=logged, check=False, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return run.stderr, [path.read_bytes() for path in out.glob("*.png")]

    said, pictures = sampled(tmp_path / "first")
    assert "ompiling jit(_sample)" in said and "warning" not in said, said
    said, again = sampled(tmp_path / "second")
    assert "ompiling" not in said and pictures and again == pictures, said


def test_a_program_that_came_from_jaxs_cache_is_written_whole(cache, jax_caches_all):
    """Rejects writing a program that the CPU's backend has loaded: it leaves out functions, and would fail when run."""
    opened(cache)
    expected = draw()
    for file in files(cache):
        file.unlink()
    hits = jax_private._events[jax_private._HIT]
    again = opened(cache)
    draw()
    assert again.compiled == 1 and jax_private._events[jax_private._HIT] > hits
    last = opened(cache)
    np.testing.assert_array_equal(draw(), expected)
    assert last.loaded == 1


def test_other_flags_sources_and_settings_have_other_folders(cache, monkeypatch):
    found = {opened(cache).folder.path}
    jax.config.update("jax_cuda_visible_devices", "1")  # as jax.distributed does if each process has one GPU
    found.add(opened(cache).folder.path)
    jax.config.update("jax_cuda_visible_devices", "all")
    assert len(found) == 1
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_some_flag=true")
    found.add(opened(cache).folder.path)
    monkeypatch.setattr(programs, "_sources", lambda: "other")
    found.add(opened(cache).folder.path)
    with jax.default_matmul_precision("highest"):
        before = jax.config.values["jax_default_prng_impl"]
        jax.config.update("jax_default_prng_impl", "rbg")
        found.add(opened(cache).folder.path)
        jax.config.update("jax_default_prng_impl", before)
    assert len(found) == 4
    about = json.loads((cache / os.path.basename(opened(cache).folder.path) / "about.json").read_text())
    assert about["sdejax"] == "other" and about["jax"] == jax.__version__


@pytest.mark.parametrize("file", ["solvers/solve.py", "runtime/jit.py", "__init__.py"])
def test_the_key_covers_the_whole_library(tmp_path, file):
    """Rejects a hash of one folder only: old programs would run after a change of a solver."""
    library = tmp_path / "sdejax"
    shutil.copytree(Path(sj.__file__).parent, library, ignore=shutil.ignore_patterns("__pycache__"))
    before = programs.hash_of_sources(library)
    assert before == programs._sources() == programs.environment()["sdejax"]
    (library / "__init__.pyi").write_text("")  # never run, so it is no part of a program
    assert programs.hash_of_sources(library) == before
    changed = library / file
    changed.write_text(changed.read_text() + "\n")
    assert programs.hash_of_sources(library) != before


def test_the_key_covers_names_of_files(tmp_path):
    """Rejects a hash of the contents only: if a file moves, another file may import something else."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.py").write_text("X = 1")
    before = programs.hash_of_sources(tmp_path)
    (tmp_path / "a" / "x.py").rename(tmp_path / "a" / "y.py")
    assert programs.hash_of_sources(tmp_path) != before


def test_batch_invariant_programs_are_programs_of_their_own(cache):
    """They have other compiler options; a cache that did not see them would give one mode the other's bits."""
    found, x = opened(cache), sj.keys([0])
    denoiser = sj.GaussianDenoiser(sj.VPSDE(), 0.1, 0.5)
    for on in (False, True, False):
        with sj.batch_invariant(on):
            sj.sample(denoiser, sj.VPSDE(), x, (2, 2, 1), sampler=sj.Sampler(2))
    names = [file for file in files(cache) if file.name.startswith("sample")]
    assert len(names) == 2 and found.compiled >= 2


def test_only_programs_that_were_not_used_for_a_month_are_deleted(cache, monkeypatch):
    opened(cache)
    old = time.time() - 31 * 24 * 3600
    mine = cache / "photographs"
    mine.mkdir()
    (mine / "about.json").write_text("{}")
    os.utime(mine / "about.json", (old, old))
    (first,) = [path for path in cache.iterdir() if path != mine]
    os.utime(first / "about.json", (old, old))
    killed, written = first / f".a.{'0' * 32}.part", first / f".a.{'1' * 32}.part"
    killed.touch()
    written.touch()
    os.utime(killed, (old, old))
    opened(cache)  # it is used again
    assert first.exists() and written.exists() and not killed.exists()
    os.utime(first / "about.json", (old, old))
    monkeypatch.setattr(programs, "_sources", lambda: "other")
    opened(cache)
    assert not first.exists() and (mine / "about.json").exists()


def test_a_full_disk_costs_a_warning(cache, monkeypatch, capsys):
    expected = draw()
    opened(cache)

    def full(self, name, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Folder, "write", full)
    np.testing.assert_array_equal(draw(), expected)
    draw(batch=3)
    said = capsys.readouterr().err
    assert said.count("warning: cache=") == 1 and "No space left on device" in said


def test_a_given_cache_must_be_writable_and_the_default_need_not_be(snapshot, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    words = ["sample", snapshot, "--steps", "1", "--out", str(tmp_path / "out")]
    assert main([*words, "--cache", str(tmp_path / "file" / "cache")]) == 2
    assert "cache=" in capsys.readouterr().err and not (tmp_path / "out").exists()
    monkeypatch.delenv("SDEJAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert main(words) == 0
    assert kept_programs() is None


def test_an_edits_warmup_runs_each_program_once_and_makes_nothing(snapshot, cache, tmp_path, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    lines = [{"guide": "a.png", "strength": 0.1 * (i + 1), "name": str(i)} for i in range(6)]
    lines += [
        {"guide": "a.png", "known": "luminance", "name": "grey"},
        {"guide": "none.png", "strength": 0.9, "name": "x"},
    ]
    manifest = tmp_path / "edits.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    words = ["edit", snapshot, "--manifest", str(manifest), "--steps", "2", "--out", str(tmp_path / "out")]
    words += ["--cache", str(cache)]
    assert main([*words, "--warmup"]) == 2
    said = capsys.readouterr()
    assert "error: x: image=" in said.err and "3 programs compiled" in said.out
    assert not (tmp_path / "out").exists()
    assert main(words) == 2
    found = kept_programs()
    assert found is not None and (found.compiled, found.loaded) == (0, 3)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--shape", "16x16x3"], "--shape=16x16x3: "),
        (["--shape", "big"], "--shape='big': must be height, width and channels, such as 32x32x3"),
        (["--cache", "none"], "--warmup, --cache='none': "),
        (["--batch", "0"], "--batch=0: must be at least 1"),
        (["--cache", "nothing://x"], "cache='nothing://x"),
    ],
)
def test_bad_words_are_one_sentence(snapshot, cache, capsys, words, told):
    assert main(["warmup", snapshot, "--cache", str(cache), *words]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1
