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


class ImageCommand(Protocol):
    """A command that makes images: a frozen dataclass of options with at least these fields.

    `verb` is what a person types, and what the record of an image calls the command.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    verb: ClassVar[str]

    @property
    def snapshot(self) -> str: ...
    @property
    def run(self) -> RunOptions: ...


class EditingCommand(ImageCommand, Protocol):
    """A command that edits one picture, or the pictures of a list."""

    @property
    def manifest(self) -> str | None: ...
