"""Command-line words to a dataclass of options, with tyro; what is wrong with them is one sentence."""

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

T = TypeVar("T")
FLAT = {"flat": True}  # the metadata of a field whose own fields are options without its name before them


def parse(command: type[T], prog: str, arguments: Sequence[str], default: T | None = None) -> T:
    """Words to a command; what is wrong with them becomes one sentence.

    **Raises:** `ValueError` for an unknown option or a wrong value.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed, unknown = tyro.cli(
                command,
                prog=prog,
                args=list(arguments),
                default=tyro.MISSING_NONPROP if default is None else default,
                return_unknown_args=True,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        text = re.sub(r"[─-╿]|For full helptext.*", " ", said.getvalue(), flags=re.DOTALL)
        text = re.sub(
            r"^ *(Value error|Parsing error|Required options)? *|Argument helptext:.*", "", " ".join(text.split())
        )
        raise ValueError(text.strip()) from None
    if unknown:
        raise ValueError(_unknown_option(unknown[0], command))
    return parsed


def _unknown_option(word: str, command: type) -> str:
    """What to say of an option that a dataclass of options does not have."""
    near = difflib.get_close_matches(word.split("=")[0], _option_names(command), n=1, cutoff=0.5)
    return f"{word!r}: no such option" + (f"; did you mean {near[0]}?" if near else "; --help lists them")


def _option_names(command: Any, prefix: str = "--") -> list[str]:
    """The option names of a dataclass of options, those of its dataclass fields included."""
    names = []
    for field in dataclasses.fields(command):
        name = field.name.replace("_", "-")
        inner = field.default if dataclasses.is_dataclass(field.default) else None
        names.append(prefix + name)
        if inner is not None:
            names.extend(_option_names(inner, prefix if field.metadata == FLAT else f"{prefix}{name}."))
    return names
