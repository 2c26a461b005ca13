"""Whole numbers in spans: many seeds, or places in a manifest, without a list of them."""

import bisect
import dataclasses
from collections.abc import Iterable, Iterator

BATCH = 32  # numbers whose images a device computes at once, where nothing else is said


@dataclasses.dataclass(frozen=True, order=True)
class Span:
    """The whole numbers from `first` to `last`, both of them included."""

    first: int
    last: int

    @property
    def name(self) -> str:
        """What its files are called, without their ending."""
        return f"{self.first:010d}-{self.last:010d}"

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return self.last - self.first + 1

    @property
    def numbers(self) -> range:
        """The numbers in it."""
        return range(self.first, self.last + 1)


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same numbers, each once, in as few spans as there can be, in order."""
    found: list[Span] = []
    for span in sorted(spans):
        if found and span.first <= found[-1].last + 1:
            found[-1] = Span(found[-1].first, max(found[-1].last, span.last))
        else:
            found.append(span)
    return found


def without(wanted: Iterable[Span], done: Iterable[Span]) -> list[Span]:
    """The numbers of `wanted` that are not in `done`."""
    left, gone = [], merged(done)
    lasts = [other.last for other in gone]
    for span in merged(wanted):
        first, at = span.first, bisect.bisect_left(lasts, span.first)
        while at < len(gone) and gone[at].first <= span.last:
            if gone[at].first > first:
                left.append(Span(first, gone[at].first - 1))
            first, at = gone[at].last + 1, at + 1
        if first <= span.last:
            left.append(Span(first, span.last))
    return left


def blocks(spans: Iterable[Span], size: int) -> Iterator[Span]:
    """The spans cut at the multiples of `size`: what was cut at one time is cut alike at another."""
    for span in spans:
        first = span.first
        while first <= span.last:
            last = min(span.last, first - first % size + size - 1)
            yield Span(first, last)
            first = last + 1


def size_of(spans: Iterable[Span]) -> int:
    """How many numbers they have together."""
    return sum(span.size for span in spans)
