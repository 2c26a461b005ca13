"""The words of a command line, for tests."""

from pathlib import Path


def words(place: Path, line: str) -> list[str]:
    """The words of a line; @ begins the name of a file or folder of `place`."""
    return [str(place / word[1:]) if word.startswith("@") else word for word in line.split()]
