"""A thread that encodes and writes results while the devices compute the next ones."""

import os
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")
E = TypeVar("E")
_WAITING = 4  # batches that may wait to be written; with more, computing waits


class Writer(Generic[T, E]):
    """A bounded queue of batches, and the thread that empties it.

    `encode(item, result)` runs on several threads. `write(item, encoded)` is called for one item after the other, in
    the order of `put`. After an item has failed it is not called again.
    """

    def __init__(self, encode: Callable[[T, np.ndarray], E], write: Callable[[T, E], None]):
        self._encode, self._write = encode, write
        self._queue: queue.Queue[Iterable[tuple[T, np.ndarray]] | None] = queue.Queue(_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="write", daemon=True)
        self._thread.start()

    def put(self, batch: Iterable[tuple[T, np.ndarray]]) -> None:
        """Queue items and their results. Waits while the queue is full.

        **Raises:** the exception of an item that failed.
        """
        if self._error is None:
            self._queue.put(batch)
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wait until all items are written.

        **Raises:** the exception of an item that failed.
        """
        self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        with ThreadPoolExecutor(os.cpu_count(), "encode") as pool:
            while (batch := self._queue.get()) is not None:
                if self._error is not None:
                    continue  # the queue is emptied on, so that `put` does not wait for ever
                try:
                    batch = list(batch)
                    encoded = pool.map(self._encode, *zip(*batch, strict=True))
                    for (item, _), data in zip(batch, encoded, strict=True):
                        self._write(item, data)
                except BaseException as error:  # `put` and `close` raise it
                    self._error = error
