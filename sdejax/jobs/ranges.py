"""Ranges of whole numbers: many seeds, or positions in a list of edits, without a list of each number."""

import bisect
import dataclasses
from collections.abc import Iterable, Iterator

BATCH = 32  # images that a device computes at once by default


@dataclasses.dataclass(frozen=True, order=True)
class NumberRange:
    """The whole numbers from `first` to `last`, including both."""

    first: int
    last: int

    @property
    def name(self) -> str:
        """The name of its files, without their ending."""
        return f"{self.first:010d}-{self.last:010d}"

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return self.last - self.first + 1

    @property
    def numbers(self) -> range:
        """The numbers in it."""
        return range(self.first, self.last + 1)


def merged(ranges: Iterable[NumberRange]) -> list[NumberRange]:
    """The same numbers, each once and in order, in as few ranges as possible."""
    found: list[NumberRange] = []
    for one in sorted(ranges):
        if found and one.first <= found[-1].last + 1:
            found[-1] = NumberRange(found[-1].first, max(found[-1].last, one.last))
        else:
            found.append(one)
    return found


def without(wanted: Iterable[NumberRange], done: Iterable[NumberRange]) -> list[NumberRange]:
    """The numbers of `wanted` that are not in `done`."""
    left, removed = [], merged(done)
    lasts = [one.last for one in removed]
    for one in merged(wanted):
        first, at = one.first, bisect.bisect_left(lasts, one.first)
        while at < len(removed) and removed[at].first <= one.last:
            if removed[at].first > first:
                left.append(NumberRange(first, removed[at].first - 1))
            first, at = removed[at].last + 1, at + 1
        if first <= one.last:
            left.append(NumberRange(first, one.last))
    return left


def blocks(ranges: Iterable[NumberRange], size: int) -> Iterator[NumberRange]:
    """The ranges cut at the multiples of `size`. So a number is always in the same block, whatever is left to do."""
    for one in ranges:
        first = one.first
        while first <= one.last:
            last = min(one.last, first - first % size + size - 1)
            yield NumberRange(first, last)
            first = last + 1


def total_size(ranges: Iterable[NumberRange]) -> int:
    """How many numbers the ranges have together."""
    return sum(one.size for one in ranges)
