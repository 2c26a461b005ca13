"""What the documents hold: snippets of Python, commands, and pieces of code within sentences."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(document: str) -> str:
    """The text of a document, which is named by its path in the repository."""
    return (ROOT / document).read_text(encoding="utf-8")


def snippets(document: str) -> list[str]:
    """The snippets of Python, in order."""
    return [body for language, body in _FENCED.findall(text_of(document)) if language == "python"]


def commands(document: str) -> list[str]:
    """The commands, in order, without the comments behind them."""
    blocks = [body for language, body in _FENCED.findall(text_of(document)) if not language]
    lines = [line for body in blocks if not is_drawing(body) for line in body.splitlines()]
    return [command for line in lines if (command := re.sub(r"\s+#.*", "", line).strip())]


def is_drawing(block: str) -> bool:
    """Whether a block without a language is a tree of files, or lines of JSON."""
    return block.startswith(("sdejax/\n", "{"))


def edit_list(document: str) -> str:
    """The block with lines of JSON."""
    return next(body for _, body in _FENCED.findall(text_of(document)) if body.startswith("{"))


def inline_code(document: str) -> list[str]:
    """The pieces of code within sentences and tables; a line break in one is a space."""
    prose = _FENCED.sub("", text_of(document))
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def words_of(command: str) -> list[str]:
    """A command as its shell splits it."""
    return shlex.split(command)
