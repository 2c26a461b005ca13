"""Results become files beside the computing: a thread encodes and writes what the devices have made, in order."""

import os
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_WAITING = 4  # batches that may wait to be written; then the computing waits


class Writer(Generic[T]):
    """A bounded queue of batches, and the thread that empties it.

    `encode(item, result)` runs on several threads; `write(item, encoded)` is called item by item in the order of `put`,
    and once an item has failed no more.
    """

    def __init__(self, encode: Callable[[T, Any], Any], write: Callable[[T, Any], None]):
        self._encode, self._write = encode, write
        self._queue: queue.Queue[Iterable[tuple[T, Any]] | None] = queue.Queue(_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="write", daemon=True)
        self._thread.start()

    def put(self, batch: Iterable[tuple[T, Any]]) -> None:
        """Have items and their results written; waits while the queue is full.

        **Raises:** what went wrong with an earlier one.
        """
        if self._error is None:
            self._queue.put(batch)
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wait until all is written.

        **Raises:** what went wrong.
        """
        self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        with ThreadPoolExecutor(os.cpu_count(), "encode") as pool:
            while (batch := self._queue.get()) is not None:
                if self._error is not None:
                    continue  # whoever puts in must not wait for room
                try:
                    batch = list(batch)
                    encoded = pool.map(self._encode, *zip(*batch, strict=True))
                    for (item, _), data in zip(batch, encoded, strict=True):
                        self._write(item, data)
                except BaseException as error:  # it is raised where the person can see it
                    self._error = error
