"""Images in any number: batch after batch over the devices of this process, by one compiled program.

The devices are given work before the last one's results are asked for, so that they do not wait for Python. No program
spans processes: each has seeds of its own and needs nothing of the others.
"""

import collections
import dataclasses
import itertools
import operator
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from sdejax.model import Model
from sdejax.parallel import image_mesh, spread
from sdejax.programs import kept_programs
from sdejax.sample import keys, sample
from sdejax.sampler import Sampler
from sdejax.spans import BATCH

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


def generate(
    model: Model,
    seeds: Iterable[int],
    *,
    prompt: str | Iterable[str] = "",
    guidance: ArrayLike | None = None,
    negative: str = "",
    sampler: Sampler | None = None,
    batch: int = BATCH,
    devices: Sequence[Any] | None = None,
    clock: DeviceClock | None = None,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Draw an image for each seed, however many there are, on all devices of this process.

    **Arguments:**

    - `seeds`: whole numbers from 0 to 2^32 - 1, taken one by one; a `range` of any length takes no memory. Several
      processes are given seeds of their own, such as `seeds[jax.process_index() :: jax.process_count()]`.
    - `prompt`: a text for all, or one for each seed. `guidance`, `negative`: as in `Model.denoiser`.
    - `sampler`: steps, grid, solver, stochasticity.
    - `batch`: images that a device computes at once. An image is its seed: bit for bit the same wherever this is the
      same, on one kind of hardware; on a CPU, the bundled model's in any batch (docs/pods.md). The last batch is filled
      up, and compiles nothing.
    - `devices`: some of `jax.local_devices()`, by default all.
    - `clock`: a `DeviceClock`, told when the devices work.

    **Yields:** batches in the order of the seeds: the seeds, a list of n, and their images (n, h, w, c), float32, in
    the data's range, not clipped; n is `batch` times the number of devices, or less in the last.

    **Raises:** `ValueError` for an argument outside its range, or fewer prompts than seeds.
    """
    if batch < 1:
        raise ValueError(f"batch={batch}: must be at least 1")
    mesh = image_mesh(jax.local_devices() if devices is None else list(devices))
    model = on_every_device(model, mesh)
    one = model.denoiser(prompt, guidance, negative) if isinstance(prompt, str) else None

    def compute(items: list[tuple[int, str]]) -> jax.Array:
        given = [negative] * len(items) if guidance is not None else negative
        denoiser = one or model.denoiser([text for _, text in items], guidance, given)
        keyed = spread(keys(seed for seed, _ in items), mesh)
        return sample(denoiser, model.sde, keyed, model.shape, sampler=sampler)

    size = batch * mesh.size
    texts = itertools.repeat("") if isinstance(prompt, str) else itertools.chain(prompt, [None])
    chunks = ((chunk, compute) for chunk in chunked(_paired(seeds, texts), size))
    for items, images in in_batches(chunks, size, clock):
        yield [seed for seed, _ in items], images


def _paired(seeds: Iterable[int], texts: Iterable[str | None]) -> Iterator[tuple[int, str]]:
    for seed, text in zip(seeds, texts, strict=False):
        if text is None:
            raise ValueError(f"prompt: there are fewer texts than seeds; seed {seed} has none")
        try:
            yield operator.index(seed), text
        except TypeError:
            raise ValueError(f"seeds: {seed!r}: must be whole numbers") from None


def on_every_device(model: Model, mesh: Mesh) -> Model:
    """The model with its parameters on each device of a mesh, where calls then find them."""
    return dataclasses.replace(model, params=jax.device_put(model.params, NamedSharding(mesh, P())))


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
