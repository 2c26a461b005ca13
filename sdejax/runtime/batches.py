"""Batch after batch through the devices of this process, ahead of what is asked for."""

import collections
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import jax
import numpy as np

from sdejax.runtime.program_cache import kept_programs

T = TypeVar("T")

_AHEAD = 2  # batches that the devices have been given beyond the one whose results are awaited


class DeviceClock:
    """How long the devices had something to do: from when a program was given to them until it was through.

    `since` is when they got their first, after it was compiled; `busy` is in seconds.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self.busy = 0.0
        self._until = 0.0
        self._lock = threading.Lock()

    def through(self, given: float) -> None:
        """A program that was given to the devices at a time of `time.perf_counter` is through now."""
        now = time.perf_counter()
        with self._lock:
            self.since = given if self.since is None else self.since
            self.busy += now - max(given, self._until)
            self._until = now


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`, the last of which may be shorter."""
    items = iter(items)
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def _waited() -> float:
    """The seconds for which computing a batch has waited for its own results, as it does with a program from a file."""
    programs = kept_programs()
    return programs.waited if programs else 0.0


def in_batches(
    chunks: Iterable[tuple[list[T], Callable[[list[T]], jax.Array]]], size: int, clock: DeviceClock | None = None
) -> Iterator[tuple[list[T], np.ndarray]]:
    """The results of each chunk, in order, computed ahead of what is asked for.

    **Arguments:**

    - `chunks`: at most `size` items each, and what gives `size` items their results (size, ...) without awaiting them.
      A shorter chunk is filled up with its last item. Drawn when there is room on the devices.
    - `clock`: told when the devices work.

    **Yields:** a chunk and its results (n, ...), n its length.

    **Raises:** what `chunks` or computing them raise, once the results of the chunks before are through.
    """
    clock = clock or DeviceClock()

    def fetch(results: jax.Array, given: float) -> np.ndarray:
        jax.block_until_ready(results)
        clock.through(given)
        return np.asarray(results)

    waiting: collections.deque = collections.deque()
    chunks, failure = iter(chunks), None
    with ThreadPoolExecutor(1, "fetch") as fetcher:
        while True:
            try:
                items, compute = next(chunks)
                results = compute(items + [items[-1]] * (size - len(items)))
                given = time.perf_counter() - _waited()
            except BaseException as error:
                failure = error
                break
            waiting.append((items, fetcher.submit(fetch, results, given)))
            if len(waiting) > _AHEAD:
                items, future = waiting.popleft()
                yield items, future.result()[: len(items)]
        while waiting:
            items, future = waiting.popleft()
            yield items, future.result()[: len(items)]
    if not isinstance(failure, StopIteration):
        raise failure
