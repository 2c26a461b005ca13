"""A list of edits: a file of JSON objects, one per line, each with the options of one edit.

A line needs only the options that differ from the command line. On the command line the file is the `--manifest`.
"""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from sdejax.jobs.command import EditingCommand

# Options that a line cannot have: they are for the whole list, or search for a strength.
_OF_THE_COMMAND = {"snapshot", "sweep", "keep_distance", "realism", "manifest", "run"}
_LONGEST = 200  # bytes of a name; file systems allow 255, and endings are added


C = TypeVar("C", bound=EditingCommand)


@dataclasses.dataclass(frozen=True)
class ListedEdit(Generic[C]):
    """One edit: the name of its files, its seed, and the command that would make it alone."""

    name: str
    seed: int
    command: C


class FailedEdits:
    """The edits that failed, by name, each with one sentence. `tell` prints each of them when it happens."""

    def __init__(self, tell: Callable[[str], None]):
        self.by_name: dict[str, str] = {}
        self._tell = tell

    def add(self, name: str, error: Exception) -> None:
        """Note and print that an edit failed."""
        self.by_name[name] = " ".join(str(error).split())
        self._tell(f"error: {name}: {self.by_name[name]}")


def read_edit_list(path: str, command: C, files: Sequence[str], failed: FailedEdits) -> list[ListedEdit[C]]:
    """The edits of a list, in order. Lines that cannot be read are added to `failed`.

    **Arguments:**

    - `path`: the file. Empty lines are skipped. The default name of a line's edit is its line number, in six digits.
    - `command`: the options of the command line, which give what a line does not say. A line may have its fields,
      `seed` and `name`; `null` means None.
    - `files`: which of the fields are paths. In a line they are relative to the folder of the list.

    **Raises:** `ValueError` if the file cannot be read or is empty, or a name is repeated or cannot name a file.
    """
    try:
        lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise ValueError(f"manifest={path!r}: cannot be read ({error.strerror})") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ValueError(f"manifest={path!r}: must have at least one line")
    parsed: list[tuple[str, dict[str, Any] | ValueError]] = []
    seen: dict[str, int] = {}
    for number, line in numbered:
        name, values = f"{number:06d}", _parse(line)
        if isinstance(values, dict) and "name" in values:
            name = values.pop("name")
        _check_name(name, f"manifest={path!r}, line {number}", seen)
        seen[name] = number
        parsed.append((name, values))
    edits = []
    for name, values in parsed:
        try:
            if isinstance(values, ValueError):
                raise values
            edits.append(_edit(name, values, command, files, Path(path).parent))
        except ValueError as error:
            failed.add(name, error)
    return edits


def _parse(line: bytes) -> dict[str, Any] | ValueError:
    try:
        values = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        return ValueError(f"not a line of JSON ({error})")
    return values if isinstance(values, dict) else ValueError("must be a JSON object, {...}")


def _check_name(name: Any, line: str, seen: dict[str, int]) -> None:
    if not isinstance(name, str) or not name or not name.isprintable() or set(name) & set("/\\") or name in (".", ".."):
        raise ValueError(f"{line}: name={name!r}: must be text that can name a file, without / and \\")
    if len(name.encode("utf-8", "replace")) > _LONGEST:
        raise ValueError(f"{line}: name={name!r}: must be at most {_LONGEST} bytes long")
    if name == "sheet":
        raise ValueError(f"{line}: name={name!r}: must be another name, because this is the contact sheet's")
    if name in seen:
        raise ValueError(f"{line}: name={name!r}: must be unique, but line {seen[name]} has the same name")


def _edit(name: str, values: dict[str, Any], command: C, files: Sequence[str], folder: Path) -> ListedEdit[C]:
    """**Raises:** `ValueError` if a field is unknown, or if its value is not of the option's type."""
    hints = typing.get_type_hints(type(command))
    allowed = [field.name for field in dataclasses.fields(command) if field.name not in _OF_THE_COMMAND]
    given = {}
    for field, value in values.items():
        if field == "seed":
            given[field] = _typed(field, value, int)
        elif field in allowed:
            given[field] = _typed(field, value, hints[field])
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
    return ListedEdit(name, seed, dataclasses.replace(command, **given, manifest=None, run=run))


def _typed(field: str, value: Any, hint: Any) -> Any:
    """A JSON value as an option of type `hint`: bool, str, int or float, or a union of these and None.

    **Raises:** `ValueError` if it is of another type.
    """
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) else (hint,)
    if value is None and type(None) in kinds:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and (int in kinds or float in kinds):
        # Python's whole numbers may be too large for a float.
        return value if int in kinds else float(max(-(2**64), min(value, 2**64)))
    if isinstance(value, float) and float in kinds:
        return value
    if isinstance(value, bool) and bool in kinds:
        return value
    if str in kinds and isinstance(value, str):
        return value
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}
    raise ValueError(f"{field}={json.dumps(value)}: must be {' or '.join(names[kind] for kind in kinds)}")


def grouped(edits: Iterable[ListedEdit[C]], fields: Sequence[str]) -> list[list[ListedEdit[C]]]:
    """The edits in groups that have the same values of `fields`, in the order of each group's first edit."""
    groups: dict[tuple[Any, ...], list[ListedEdit[C]]] = {}
    for edit in edits:
        groups.setdefault(tuple(getattr(edit.command, field) for field in fields), []).append(edit)
    return list(groups.values())
