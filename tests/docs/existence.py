"""Whether the programs, verbs, options, targets and extras that a command names exist."""

import dataclasses
import importlib
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sdejax.commands import main as command_line
from sdejax.commands.arguments import FLAT
from sdejax.commands.command import Command
from tests.docs.documents import ROOT

_OTHERS = {"--help", "--dependency"}  # every program's, and that of Slurm's sbatch


def check_command(words: Sequence[str]) -> None:
    """Check a command that is whole: a verb of ours must take all of its words."""
    program, *rest = words
    if program != "sdejax":
        check_fragment(words)
        return
    if rest[0] == "train":
        rest[1] = str(ROOT / ("configs/emoji32.py" if rest[1] == "CONFIG" else rest[1]))
    assert rest[0] in command_line.VERBS, f"sdejax {rest[0]}: no such verb"
    _file(rest[0]).from_words(rest[1:])


def check_fragment(words: Sequence[str]) -> None:
    """Check a command as sentences have them: words may be missing, but those that are there must exist."""
    program, *rest = words
    known = set[str]()
    if program == "sdejax":
        known = {*_options(_command(rest[0]))}
    elif program == "python" and rest[1] != "pytest":
        stem = rest[1].replace(".", "/")
        path = ROOT / (f"{stem}/__main__.py" if (ROOT / stem).is_dir() else f"{stem}.py")
        assert path.is_file(), f"python -m {rest[1]}: no such program"
        known = {*_in_source(path)}
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"make: no target {rest[0]}"
    elif found := re.fullmatch(r"sdejax\[([\w,]+)\]", rest[-1]):
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert {*found[1].split(",")} <= {*extras}, f"{rest[-1]}: no such extra"
    elif program.startswith(".venv/"):
        assert all((ROOT / word).exists() for word in rest if "/" in word), f"{words}: no such file"
    unknown = {_positive(word) for word in rest if word.startswith("--")} - known - _OTHERS
    assert not unknown, f"{' '.join(words)}: no option {', '.join(unknown)}"


def check_option(word: str) -> None:
    """Check an option of which a sentence does not say the program."""
    known = {name for verb in command_line.VERBS for name in _options(_command(verb))} | _OTHERS
    programs = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "train").glob("*.py")]
    known |= {name for path in programs for name in _in_source(path)}
    assert _positive(word) in known, f"{word}: no program has this option"


def _file(verb: str) -> Any:
    """The file of a verb."""
    assert verb in command_line.VERBS, f"sdejax {verb}: no such verb"
    return importlib.import_module(f"sdejax.commands.{command_line.VERBS[verb].file}")


def _command(verb: str) -> type[Command]:
    """The options of a verb, as a dataclass."""
    return next(value for value in vars(_file(verb)).values() if getattr(value, "verb", None) == verb)


def _options(command: Any, before: str = "--") -> Iterator[str]:
    """The options of a dataclass, those of its dataclass fields included."""
    for field in dataclasses.fields(command):
        name = field.name.replace("_", "-")
        yield before + name
        if dataclasses.is_dataclass(field.default):
            yield from _options(field.default, before if field.metadata == FLAT else f"{before}{name}.")


def _in_source(path: Path) -> Iterator[str]:
    """The options of a program as its source has them: the fields of a dataclass, or texts such as "--count"."""
    for field, text in re.findall(r"^    (\w+): |\"(--[\w-]+)\"", path.read_text(), re.MULTILINE):
        yield text or f"--{field.replace('_', '-')}"


def _positive(word: str) -> str:
    """The name of an option, without its value and without the "no-" of a flag."""
    return word.partition("=")[0].replace("--no-", "--")
