"""What jobs read of a command. The commands are dataclasses of options, in the floor above."""

import dataclasses
from typing import Any, ClassVar, Protocol


class RunOptions(Protocol):
    """The options of a run that jobs read. `sdejax.commands.options.Run` documents them."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def out(self) -> str: ...
    @property
    def seeds(self) -> str: ...
    @property
    def batch(self) -> int | None: ...
    @property
    def format(self) -> str | None: ...
    @property
    def shard_size(self) -> int | None: ...
    @property
    def warmup(self) -> bool: ...
    @property
    def json(self) -> bool: ...
    @property
    def timeout(self) -> int: ...


class Command(Protocol):
    """The options of a command that makes images: a frozen dataclass with at least these fields."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def snapshot(self) -> str: ...
    @property
    def run(self) -> RunOptions: ...


class EditCommand(Command, Protocol):
    """The options of a command that edits one picture, or the pictures of a list."""

    @property
    def manifest(self) -> str | None: ...
