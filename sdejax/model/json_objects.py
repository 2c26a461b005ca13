"""Frozen dataclasses as plain data, and back: an object is the name of its class and its fields."""

import dataclasses
import inspect
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

import dacite

T = TypeVar("T")


def object_to_json(value: Any) -> dict[str, Any]:
    """A frozen dataclass as plain data: the name of its class, and its fields."""
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    return {"class": type(value).__name__, **fields}


def object_from_json(name: str, data: Any, classes: Iterable[type[T]], *, complete: bool = True) -> T:
    """The inverse of `object_to_json`.

    **Arguments:**

    - `name`: what errors call the object.
    - `data`: the parsed JSON.
    - `classes`: the classes that are allowed.
    - `complete`: whether every field must be given. If not, the class's defaults stand for the others.

    **Raises:** `ValueError` if the class is not one of `classes`, if a field is unknown or missing, or if a value has
    the wrong type or is outside its range.
    """
    known = {cls.__name__: cls for cls in classes}
    if not isinstance(data, Mapping):
        raise ValueError(f"{name}={reprlib.repr(data)}: must be an object with a class")
    if not isinstance(data.get("class"), str) or data["class"] not in known:
        raise ValueError(f"{name}.class={data.get('class')!r}: must be one of {', '.join(known)}")
    fields = {key: value for key, value in data.items() if key != "class"}
    return fields_from_json(name, fields, known[data["class"]], complete=complete)


def fields_from_json(name: str, fields: Any, cls: type[T], *, complete: bool = True) -> T:
    """A dataclass from its fields, whose tuples are lists in JSON.

    **Raises:** as `object_from_json`.
    """
    if not isinstance(fields, Mapping):
        raise ValueError(f"{name}={reprlib.repr(fields)}: must be an object")
    known = [field.name for field in dataclasses.fields(cls) if field.init]  # pyright: ignore[reportArgumentType]
    for field in fields:
        if field not in known:
            raise ValueError(f"{name}.{field}: no such field; the fields of {cls.__name__} are {', '.join(known)}")
    for field in known if complete else ():
        if field not in fields:
            raise ValueError(f"{name}.{field}: is missing")
    given = {field: _with_tuples(value) for field, value in fields.items()}
    try:
        return dacite.from_dict(cls, given, dacite.Config(type_hooks={int: _whole_number, float: _number}))  # pyright: ignore[reportArgumentType]
    except dacite.WrongTypeError as error:
        field = str(error.field_path)
        raise ValueError(f"{name}.{field}={reprlib.repr(fields[field])}: must be {_allowed(cls, field)}") from None
    except dacite.MissingValueError as error:
        raise ValueError(f"{name}.{error.field_path}: is missing") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _with_tuples(value: Any) -> Any:
    """JSON has lists where the dataclasses have tuples."""
    return tuple(_with_tuples(item) for item in value) if isinstance(value, list) else value


def _whole_number(value: Any) -> int:
    """An int that is not a bool, which Python counts among the ints."""
    if isinstance(value, bool):
        raise dacite.WrongTypeError(int, value)
    return value


def _number(value: Any) -> float:
    """A float, or an int as a float."""
    return float(value) if isinstance(_whole_number(value), int) else value


def _allowed(cls: type, field: str) -> str:
    """What a field may hold, for an error message."""
    kind = inspect.get_annotations(cls, eval_str=True)[field]
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    return f"of the type {inspect.formatannotation(kind)}"
