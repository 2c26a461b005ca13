"""Without each private name of jax the library is slower or says less; no result changes and nothing crashes."""

import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from sdejax.model.snapshot import save
from sdejax.runtime import jax_private
from sdejax.runtime.distributed import Processes, start_processes
from sdejax.runtime.peers import Peers
from sdejax.runtime.program_cache import keep_programs, kept_programs
from tests.runtime.programs import draw, files, opened
from tests.tiny import tiny_model
from tests.train_run import free_port, on_fake_devices

ROOT = Path(__file__).parents[2]
PRIVATE = re.compile(r"jax\._src|\b_jax\b|_JaxPjrt|jax\.config\.values|SIGABRT|global_state")
NAMES = {
    "global_state",
    "get_distributed_runtime_service",
    "serialize",
    "_JaxPjrtUnpickler",
    "get_compile_options",
    "reset_cache",
}


LOOKED_UP = re.findall(
    r'_private\(\s*"([\w.]+)", "([\w.]+)"', (ROOT / "sdejax" / "runtime" / "jax_private.py").read_text()
)


def test_private_names_are_in_one_file():
    paths = (ROOT / "sdejax").rglob("*.py")
    assert [path.name for path in paths if PRIVATE.search(path.read_text())] == ["jax_private.py"]
    # The tests below remove each name.
    assert {name.rpartition(".")[2] for _, name in LOOKED_UP} - {"_jax"} == NAMES


@pytest.mark.skipif(not jax.__version__.startswith("0.10."), reason="other versions may lack some")
@pytest.mark.parametrize(("module", "name"), LOOKED_UP)
def test_this_version_of_jax_has_each_name(module, name):
    """Rejects a misspelt name, without which everything runs as well."""
    jax_private._private(module, name)


@pytest.fixture
def remove(monkeypatch):
    """A function that lets the library find none of some names."""

    def remove(*names):
        found = jax_private._private

        def private(module, name):
            if name.rpartition(".")[2] in names:
                raise jax_private.Missing(f"{module}.{name}")
            return found(module, name)

        monkeypatch.setattr(jax_private, "_private", private)

    return remove


@pytest.mark.parametrize("name", ["serialize", "_JaxPjrtUnpickler", "Compiled"])
def test_programs_are_compiled_at_each_start(cache, remove, monkeypatch, capsys, name):
    expected = draw()
    remove(name)
    if name == "Compiled":
        monkeypatch.setattr(jax.stages, "Compiled", None)
    for _ in range(2):
        found = opened(cache)
        np.testing.assert_array_equal(draw(), expected)
        assert (found.compiled, found.loaded) == (1, 0)
    said = capsys.readouterr().err
    assert said.count("\n") == (2 if name == "serialize" else 0) and len(files(cache)) == (name != "serialize")


def test_programs_are_loaded_only_onto_devices_with_the_same_numbers(cache, remove):
    remove("get_compile_options")
    opened(cache)
    expected = draw()
    found = opened(cache)
    np.testing.assert_array_equal(draw(), expected)
    np.testing.assert_array_equal(draw(jax.devices()[1:2]), expected)
    assert (found.loaded, found.compiled) == (1, 1)


def test_nothing_is_kept_if_settings_are_not_listed(cache, monkeypatch, capsys):
    """Rejects a key without the settings: a program of other settings would run."""
    expected = draw()
    monkeypatch.delattr(type(jax.config), "values")
    keep_programs(str(cache))
    assert kept_programs() is None and not cache.exists()
    np.testing.assert_array_equal(draw(), expected)
    said = capsys.readouterr().err
    assert said.startswith(f"warning: cache={str(cache)!r}: ") and said.count("\n") == 1


def test_programs_are_compiled_twice_if_jax_does_not_tell_where_they_come_from(cache, jax_caches_all, monkeypatch):
    """Rejects writing a program that the CPU's backend would not write whole."""
    expected, again, compile_afresh = draw(), [], jax_private.compile_afresh
    monkeypatch.setattr(jax_private, "compile_afresh", lambda lowered: again.append(1) or compile_afresh(lowered))
    monkeypatch.setattr(jax_private, "_ASKED", "asked")
    monkeypatch.setattr(jax_private, "_HIT", "hit")
    monkeypatch.setattr(jax_private, "_events", {"asked": 0, "hit": 0})
    for loaded in (0, 1):
        found = opened(cache)
        np.testing.assert_array_equal(draw(), expected)
        assert (found.loaded, len(again)) == (loaded, 1)


def test_a_program_from_jaxs_cache_is_not_written_if_that_cannot_be_turned_off(
    cache,
    jax_caches_all,
    remove,
    capsys,
):
    opened(cache)
    expected = draw()
    (file,) = files(cache)
    file.unlink()
    remove("reset_cache")
    again = opened(cache)
    np.testing.assert_array_equal(draw(), expected)
    assert again.compiled == 1 and not files(cache)
    said = capsys.readouterr().err
    assert said.startswith("warning: sample-") and said.count("\n") == 1


def test_a_process_alone_has_no_connection_and_needs_none(remove):
    remove("global_state")
    peers = Peers(timeout=5)
    assert (peers.index, peers.count, peers.reason_to_stop(), peers.wait_for_others()) == (0, 1, "", [])
    assert peers.agree("plan", lambda: [1]) == [1]
    peers.leave()


def test_training_starts_its_processes_without_a_connection(remove, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *words, **_: calls.append(words))
    remove("global_state", "get_distributed_runtime_service")
    where = f"127.0.0.1:{free_port()}"
    start_processes(Processes(coordinator=where, count=2, index=1))
    assert calls == [(where, 2, 1)]


def test_processes_that_joined_by_themselves_say_what_they_lack(remove, monkeypatch):
    remove("global_state")
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    with pytest.raises(ValueError, match=f"^jax={jax.__version__}: must be .*global_state"):
        Peers(timeout=5)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda address, **limits: (address, limits), ("here", {"cluster_register_timeout": 3})),
        (lambda address: (address,), ("here",)),
    ],
    ids=["jax 0.10", "a version without the limit"],
)
def test_the_coordinator_gets_a_limit_if_it_takes_one(monkeypatch, make, expected):
    from jax._src.lib import _jax

    monkeypatch.setattr(_jax, "get_distributed_runtime_service", make)
    with jax_private.registration_limit(3):
        assert _jax.get_distributed_runtime_service("here") == expected
    assert _jax.get_distributed_runtime_service is make


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ("reached: 1/3. Some timed out task names:\n/job:x/task:10\n/job:x/task:2\n [type]", "processes 2, 10 did not"),
        (
            "DEADLINE_EXCEEDED\n\nRPC: /xla.coordination.CoordinationService/RegisterTask",
            "process 0",
        ),
        ("something that a later jaxlib writes", "the processes of this run did not find each other within 7 seconds"),
        ("", "the processes of this run did not find each other within 7 seconds"),
    ],
)
def test_the_sentence_names_nobody_if_jaxlib_does_not(messages, told):
    assert jax_private.who_is_missing(messages, 7).startswith(told)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("private") / "model"
    save(path, tiny_model())
    return str(path)


def pair(model, out, *names):
    where = f"127.0.0.1:{free_port()}"
    words = ["sample", model, "--steps", "2", "--batch", "2", "--seeds", "0-7", "--out", out, "--cache", "none"]
    words += ["--coordinator", where, "--processes", "2", "--process-id"]
    without = [sys.executable, "-m", "tests.runtime.without", *names, "--", *map(str, words)]
    running = [on_fake_devices(1, [*without, str(index)]) for index in range(2)]
    return [(*process.communicate(timeout=120), process.returncode) for process in running]


def test_two_processes_without_a_connection_say_so_before_they_start(model, tmp_path):
    for _, said, code in pair(model, tmp_path / "out", "global_state"):
        assert code == 2 and said.startswith(f"error: --processes=2: must be 1 with jax {jax.__version__}"), said
        assert said.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_processes_make_the_same_images_without_the_other_names(model, tmp_path):
    said = pair(model, tmp_path / "whole")
    assert [code for *_, code in said] == [0, 0], said
    others = ("get_distributed_runtime_service", "get_live_nodes", "signal", "settings")
    said = pair(model, tmp_path / "without", *others)
    assert [code for *_, code in said] == [0, 0], said
    for seed in range(8):
        one, other = (tmp_path / name / f"{seed:06d}.png" for name in ("whole", "without"))
        np.testing.assert_array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(other)))
        assert json.loads(other.with_suffix(".json").read_text())["seed"] == seed
