"""Batches through the devices of this process, computed a little before their results are asked for."""

import collections
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import jax
import numpy as np

from sdejax.runtime.program_cache import kept_programs

T = TypeVar("T")

_AHEAD = 2  # batches that the devices hold beyond the one whose results are awaited


class DeviceClock:
    """Measures how long the devices had work.

    `since` is the time, by `time.perf_counter`, at which they got their first program after it was compiled. `busy` is
    in seconds.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self.busy = 0.0
        self._until = 0.0
        self._lock = threading.Lock()

    def finished(self, given: float) -> None:
        """Call it when the devices finish a program that they were given at the time `given`."""
        now = time.perf_counter()
        with self._lock:
            self.since = given if self.since is None else self.since
            self.busy += now - max(given, self._until)
            self._until = now


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`. The last list may be shorter."""
    items = iter(items)
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def in_batches(
    chunks: Iterable[tuple[list[T], Callable[[list[T]], jax.Array]]], size: int, clock: DeviceClock | None = None
) -> Iterator[tuple[list[T], np.ndarray]]:
    """The results of each chunk, in order. The devices already compute the next chunks when one is asked for.

    **Arguments:**

    - `chunks`: pairs of at most `size` items and a function that starts to compute the results (size, ...) of `size`
      items and does not wait for them. A shorter chunk is filled up with its last item. A chunk is drawn when the
      devices have room for it.
    - `clock`: measures the time that the devices work.

    **Yields:** a chunk of n items and their results (n, ...).

    **Raises:** what drawing or computing a chunk raises, after the results of the chunks before it.
    """
    clock = clock or DeviceClock()

    def fetch(results: jax.Array, given: float) -> np.ndarray:
        jax.block_until_ready(results)
        clock.finished(given)
        return np.asarray(results)

    waiting: collections.deque[tuple[list[T], Future[np.ndarray]]] = collections.deque()
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


def _waited() -> float:
    """How many seconds the last batch waited for its results before it returned, as a program from a file does once."""
    programs = kept_programs()
    return programs.waited if programs else 0.0
