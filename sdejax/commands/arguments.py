"""From the words of a command line to a dataclass of options, with tyro. A mistake becomes one sentence."""

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import tyro

from sdejax.commands.command import Command

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound=Command)

# The metadata of a field whose own fields become options without a prefix. tyro does it by `tyro.conf.arg(name="")`;
# this tells `_option_names`.
FLAT: Mapping[str, bool] = {"flat": True}


def parse(command: type[C], words: Sequence[str], *, program: str = "", default: C | None = None) -> C:
    """The command that the words ask for.

    **Arguments:**

    - `program`: what the help text calls the program; by default "sdejax" and the verb.
    - `default`: the options that the words do not name have the values of this command.

    **Raises:** `ValueError` for an unknown option or a wrong value, `SystemExit` after `--help`.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            parsed, unknown = tyro.cli(
                command,
                prog=program or f"sdejax {command.verb}",
                args=list(words),
                default=tyro.MISSING_NONPROP if default is None else default,
                return_unknown_args=True,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(_one_sentence(printed.getvalue())) from None
    if unknown:
        raise ValueError(_unknown_option(unknown[0], default or command))
    return parsed


def _one_sentence(text: str) -> str:
    """What tyro prints about a mistake, without its frame, heading and hints."""
    text = re.sub(r"[─-╿]|For full helptext.*", " ", text, flags=re.DOTALL)
    heading = r"^ *(Value error|Parsing error|Required options)? *"
    return re.sub(rf"{heading}|Argument helptext:.*", "", " ".join(text.split())).strip()


def _unknown_option(word: str, command: Command | type[Command]) -> str:
    """What to say about an option that a command does not have."""
    near = difflib.get_close_matches(word.split("=")[0], _option_names(command), n=1, cutoff=0.5)
    return f"{word!r}: no such option" + (f"; did you mean {near[0]}?" if near else "; --help lists the options")


def _option_names(options: "DataclassInstance | type[DataclassInstance]", prefix: str = "--") -> list[str]:
    """The names of the options of a dataclass or an instance of one, including those of its fields."""
    names = []
    for field in dataclasses.fields(options):
        name = field.name.replace("_", "-")
        names.append(prefix + name)
        inner = field.default if isinstance(options, type) else getattr(options, field.name)
        if dataclasses.is_dataclass(inner):
            names.extend(_option_names(inner, prefix if field.metadata == FLAT else f"{prefix}{name}."))
    return names
