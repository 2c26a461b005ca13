"""The command line: its verbs, their help, and how it starts and ends."""

import importlib
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from sdejax.commands.main import VERBS, main

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "emoji32.py")


def help_of(capsys, *words):
    """What a verb prints for --help."""
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert not stop.value.code
    return capsys.readouterr().out


def test_help_lists_the_verbs_and_the_version_is_printed(capsys):
    assert main(["--help"]) == 0
    usage = capsys.readouterr().out
    assert all(f"  {name} " in usage for name in VERBS)
    assert main([]) == 2
    assert capsys.readouterr().err == usage
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{version('sdejax')}\n"


@pytest.mark.parametrize("name", [name for name in VERBS if name != "train"])
def test_each_verb_explains_its_options(capsys, name):
    text = help_of(capsys, name)
    assert text.startswith(f"usage: sdejax {name} ") and "show this help message" in text


@pytest.mark.parametrize("verb", ["edit", "sync", "sample", "warmup"])
def test_each_verb_that_makes_images_has_the_common_options(capsys, verb):
    text = help_of(capsys, verb)
    assert {"--out", "--seeds", "--steps", "--batch-invariant", "--format"} <= set(text.replace(",", "").split())
    assert "--run" not in text


def test_train_explains_every_field_of_the_config_and_of_its_parts(capsys):
    """Parametrisation is made of classes: their fields are options, those of the config's own classes."""
    assert "sdejax train CONFIG" in help_of(capsys, "train")
    text = help_of(capsys, "train", CONFIG)
    options = ["--batch", "--network.channels", "--sde.beta-max", "--parametrisation.prediction.data-std"]
    options += ["--objective.weighting", "--optimiser.learning-rate", "--processes.coordinator", "--dry-run"]
    assert set(options) <= set(text.replace(",", "").split())


def test_a_verb_is_known_by_one_name():
    """The name in the list is that of the class, which the record of an image has."""
    for name, verb in VERBS.items():
        module = importlib.import_module(f"sdejax.commands.{verb.file}")
        commands = {
            found.verb
            for found in vars(module).values()
            if isinstance(found, type) and found.__module__ == module.__name__ and hasattr(found, "verb")
        }
        assert commands == {name}


def run(*command):
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )


def test_only_the_file_of_the_verb_is_imported():
    """Rejects a list of verbs that imports all of them: the first image would come later."""
    code = (
        "import sys\nfrom sdejax.commands.main import main\n"
        "try:\n    main(['strokes', '--help'])\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *[name for name in sys.modules if name.startswith('sdejax.commands.')])\n"
        "print('HEAVY', *[name for name in ('jax', 'flax', 'diffrax', 'optax', 'PIL') if name in sys.modules])\n"
    )
    *_, loaded, heavy = run("-c", code).stdout.splitlines()
    files = {"main", "command", "arguments", "strokes"}
    assert set(loaded.split()[1:]) == {f"sdejax.commands.{name}" for name in files}
    assert heavy == "HEAVY"


def test_the_module_is_the_command():
    assert run("-m", "sdejax", "--version").stdout.strip() == version("sdejax")
    done = run("-m", "sdejax", "paint")
    assert done.returncode == 2 and done.stderr.startswith("error: 'paint': ") and done.stderr.count("\n") == 1


def test_env(capsys):
    assert main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["backend"] == "cpu" and len(found["devices"]) == 4
    assert main(["env"]) == 0
    assert version("jax") in capsys.readouterr().out


# A person presses Ctrl-C while jax looks for garbage. Python prints that it ignores the exception, and goes on.
IGNORED = """
import gc, signal, sys
from sdejax.commands.main import main

def stop(phase, _):
    gc.callbacks.remove(stop)
    signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
gc.callbacks.append(stop)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals go to a thread")
def test_a_ctrl_c_stops_the_command_even_if_python_ignores_it(tmp_path):
    # Rejects leaving it to Python: the command would go on, with "Exception ignored in" amid its progress.
    words = ["sample", "checkpoints/emoji32", "--seeds", "0-199999", "--format", "tar", "--out", str(tmp_path / "out")]
    done = run("-c", IGNORED, *words)
    assert (done.returncode, "Exception ignored" in done.stderr) == (130, False), done.stderr
    assert done.stderr.splitlines()[-1] == "stopped"
