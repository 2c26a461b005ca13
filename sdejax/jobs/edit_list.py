"""A manifest: a file of JSON objects, one per line, each the options of one edit.

An entry is the command that would make its image alone, so a line needs only what differs from the command line.
"""

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# Options that are not a line's: those of the whole manifest, and those that look for a strength.
_OF_THE_COMMAND = {"snapshot", "sweep", "keep_distance", "realism", "manifest", "run"}
_LONGEST = 200  # bytes of a name; file systems hold 255 with what is added


@dataclasses.dataclass(frozen=True)
class Entry:
    """One image to make: the name of its files, its seed, and the command that would make it alone."""

    name: str
    seed: int
    command: Any


class Failures:
    """The entries of which nothing came, by name, each with its one sentence; kept as they happen."""

    def __init__(self, tell: Any):
        self.by_name: dict[str, str] = {}
        self._tell = tell

    def add(self, name: str, error: Exception) -> None:
        """Tell of one."""
        self.by_name[name] = " ".join(str(error).split())
        self._tell(f"error: {name}: {self.by_name[name]}")


def read_manifest(path: str, command: Any, files: Sequence[str], failures: Failures) -> list[Entry]:
    """The entries of a manifest whose lines can be read, in order; the others are told to `failures`.

    **Arguments:**

    - `path`: the manifest. Empty lines are passed over. A line's name is by default its number, in six digits.
    - `command`: the command line's options, a frozen dataclass with `run`: what a line does not say. Its fields, `seed`
      and `name` are what a line may hold; `null` is no value.
    - `files`: which of the fields are paths; in a manifest they are relative to its folder.

    **Raises:** `ValueError` where the file cannot be read, holds no line, or a name is repeated or cannot be a file's.
    """
    try:
        lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise ValueError(f"manifest={path!r}: cannot be read ({error.strerror})") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ValueError(f"manifest={path!r}: holds no line")
    read: list[tuple[str, dict[str, Any] | ValueError]] = []
    seen: dict[str, int] = {}
    for number, line in numbered:
        name, values = f"{number:06d}", _parse(line)
        if isinstance(values, dict) and "name" in values:
            name = values.pop("name")
        _check_name(name, f"manifest={path!r}, line {number}", seen)
        seen[name] = number
        read.append((name, values))
    entries = []
    for name, values in read:
        try:
            if isinstance(values, ValueError):
                raise values
            entries.append(_entry(name, values, command, files, Path(path).parent))
        except ValueError as error:
            failures.add(name, error)
    return entries


def _parse(line: bytes) -> dict[str, Any] | ValueError:
    try:
        values = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        return ValueError(f"not a line of JSON ({error})")
    return values if isinstance(values, dict) else ValueError("must be a JSON object, {...}")


def _check_name(name: Any, where: str, seen: dict[str, int]) -> None:
    if not isinstance(name, str) or not name or not name.isprintable() or set(name) & set("/\\") or name in (".", ".."):
        raise ValueError(f"{where}: name={name!r}: must be text that can name a file, without / and \\")
    if len(name.encode("utf-8", "replace")) > _LONGEST:
        raise ValueError(f"{where}: name={name!r}: must be at most {_LONGEST} bytes long")
    if name == "sheet":
        raise ValueError(f"{where}: name={name!r}: is the contact sheet's")
    if name in seen:
        raise ValueError(f"{where}: name={name!r}: is that of line {seen[name]} too")


def _entry(name: str, values: dict[str, Any], command: Any, files: Sequence[str], folder: Path) -> Entry:
    """**Raises:** `ValueError` for a field that is unknown, or whose value is of another type than the option's."""
    types_ = typing.get_type_hints(type(command))
    allowed = [field.name for field in dataclasses.fields(command) if field.name not in _OF_THE_COMMAND]
    given = {}
    for field, value in values.items():
        if field == "seed":
            given[field] = _typed(field, value, int)
        elif field in allowed:
            given[field] = _typed(field, value, types_[field])
            if field in files and given[field] is not None:
                given[field] = str(folder / given[field])
        else:
            near = difflib.get_close_matches(field, [*allowed, "seed", "name"], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"the fields are {', '.join([*allowed, 'seed', 'name'])}"
            raise ValueError(f"{field!r}: no such field; {hint}")
    seed = given.pop("seed", int(command.run.seeds))
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}: must be from 0 to {2**32 - 1}")
    run = dataclasses.replace(command.run, seeds=str(seed))
    return Entry(name, seed, dataclasses.replace(command, **given, manifest=None, run=run))


def _typed(field: str, value: Any, hint: Any) -> Any:
    """A value of JSON as an option of type `hint`: bool, str, int or float, or any of these or None."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) else (hint,)
    if value is None and type(None) in kinds:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and (int in kinds or float in kinds):
        # A whole number may be longer than a float holds.
        return value if int in kinds else float(max(-(2**64), min(value, 2**64)))
    if isinstance(value, float) and float in kinds:
        return value
    if isinstance(value, bool) and bool in kinds:
        return value
    if str in kinds and isinstance(value, str):
        return value
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}
    raise ValueError(f"{field}={json.dumps(value)}: must be {' or '.join(names[kind] for kind in kinds)}")


def grouped(entries: Iterable[Entry], fields: Sequence[str]) -> list[list[Entry]]:
    """The entries by what one compiled call has one value of, in the order of their first."""
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(tuple(getattr(entry.command, field) for field in fields), []).append(entry)
    return list(groups.values())


class Hashes:
    """SHA-256 of files, each read once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, command: Any, files: Sequence[str]) -> dict[str, str]:
        """The hashes of the files that a command names, by field.

        **Raises:** `OSError` where one cannot be read.
        """
        paths = {field: getattr(command, field) for field in files}
        return {field: self._one(path) for field, path in paths.items() if path is not None}

    def _one(self, path: str) -> str:
        if path not in self._known:
            with open(path, "rb") as file:
                self._known[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._known[path]
