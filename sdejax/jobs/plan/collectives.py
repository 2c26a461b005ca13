"""The collectives in the text of a compiled program: how devices communicate."""

import math
import re

_COLLECTIVE = re.compile(
    r" = (.*?) (all-gather|all-reduce|reduce-scatter|(?:ragged-)?all-to-all|collective-(?:permute|broadcast))(-done)?\("
)
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """How many collectives of each kind a program's text has, and the bytes of their results on one device.

    A collective that is split into a start and a done counts once. A collective in the body of a loop counts once.
    """
    found: dict[str, tuple[int, int]] = {}
    for line in text.splitlines():
        match = _COLLECTIVE.search(line.partition(", metadata=")[0])
        if match:
            count, size = found.get(match[2], (0, 0))
            found[match[2]] = count + 1, size + sum(_bytes(array) for array in _ARRAY.finditer(match[1]))
    return found


def _bytes(array: re.Match[str]) -> int:
    bits = 8 if array[1] == "pred" else int(array[2])
    return math.prod(int(size) for size in array[3].split(",") if size) * bits // 8
