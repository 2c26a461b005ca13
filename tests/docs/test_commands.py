"""Every command of the documents runs as a reader would type it, or is listed here with the reason why not.

The verbs, options and files of a command that does not run must exist, and so must those within sentences.
"""

import re

import pytest

from sdejax.commands.main import main
from sdejax.runtime.program_cache import keep_programs
from tests.docs.documents import DOCUMENTS, commands, inline_code, words_of
from tests.docs.existence import check_command, check_fragment, check_option
from tests.docs.reader import furnish

# How the commands begin that do not run here, and why.
NOT_RUN = {
    "make ": "installs into .venv",
    ".venv/bin/": "is for a developer's own environment",
    "pip install ": "needs a network",
    "apt-get install ": "needs Debian and a network",
    "mkdir ": "is no command of ours",
    "xz ": "is no command of ours",
    "python -m train.emoji ": "needs a font of Debian's; tests/train/test_emoji.py draws",
    "python -m benchmarks.": "takes minutes to hours",
    "sdejax train ": "takes hours; tests/training trains",
    "sdejax evaluate ": "needs the emoji set, or an hour; tests/evaluation evaluates",
    "sdejax import hf://": "needs a network",
    "sdejax import checkpoint_24.pth ": "needs a file of score_sde's authors; tests/pretrained has one like it",
    "sdejax plan configs/": "needs libtpu, and minutes; tests/jobs/test_plan.py plans",
    "sdejax plan checkpoints/": "needs a process with eight devices; tests/jobs/test_plan.py plans",
    "sdejax warmup ": "takes a minute; tests/runtime/test_program_cache.py warms up",
    'sdejax sample checkpoints/emoji32 --prompt "red heart" --seeds 0-49999 ': "takes hours",
    'sdejax sample checkpoints/emoji32 --prompt "red heart" --guidance 2 --seeds 0-49999 ': "needs a bucket, and hours",
}
WITH_COMMANDS = [document for document in DOCUMENTS if commands(document)]


def why_not(command: str) -> str | None:
    """The reason for which a command does not run here, or None."""
    return next((reason for beginning, reason in NOT_RUN.items() if command.startswith(beginning)), None)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A folder for compiled programs, as a reader has one: what several commands run is compiled once."""
    yield tmp_path_factory.mktemp("programs")
    keep_programs("none")


@pytest.mark.slow
@pytest.mark.parametrize("document", [name for name in WITH_COMMANDS if not all(map(why_not, commands(name)))])
def test_the_commands_run(document, programs, monkeypatch, tmp_path, capsys):
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDEJAX_CACHE", str(programs))
    for command in commands(document):
        if why_not(command) is None:
            program, *words = words_of(command)
            assert program == "sdejax", command
            assert main(words) == 0, f"{command}: {capsys.readouterr().err}"


def test_each_reason_is_that_of_a_command():
    every = [command for document in DOCUMENTS for command in commands(document)]
    assert [start for start in NOT_RUN if not any(command.startswith(start) for command in every)] == []


@pytest.mark.parametrize("document", WITH_COMMANDS)
def test_what_a_command_names_exists(document):
    for command in commands(document):
        if why_not(command) is not None:
            check_command(words_of(command))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_and_options_within_sentences_exist(document):
    for code in inline_code(document):
        if re.match(r"(sdejax|make|python -m|pip install) [\w./'\"]", code):
            check_fragment(words_of(code))
        for option in re.findall(r"(?<!\S)--[a-z][\w.-]*", code):
            check_option(option)
