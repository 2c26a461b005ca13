"""What `main` expects of a verb."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol


class Command(Protocol):
    """One call of a verb: a frozen dataclass whose fields are the verb's options."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    verb: ClassVar[str]

    def execute(self) -> int:
        """Do what the person asked for.

        **Returns:** the exit code.

        **Raises:** `ValueError` for bad input, before anything is written.
        """
        ...


class VerbFile(Protocol):
    """The file of a verb."""

    def from_words(self, words: Sequence[str]) -> Command:
        """The command that these words of the command line ask for.

        **Raises:** `ValueError` for an unknown option or a wrong value.
        """
        ...
