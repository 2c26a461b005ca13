"""Images in any number: batch after batch over the devices of this process, by one compiled program.

The devices are given work before the last one's results are asked for, so that they do not wait for Python. No program
spans processes: each has seeds of its own and needs nothing of the others.
"""

import dataclasses
import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from sdejax.jobs.ranges import BATCH
from sdejax.model.model import Model
from sdejax.noise.keys import keys
from sdejax.runtime.batches import DeviceClock, chunked, in_batches
from sdejax.runtime.sharding import image_mesh, spread
from sdejax.sampling.sample import sample
from sdejax.solvers.sampler import Sampler

T = TypeVar("T")


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
    return dataclasses.replace(model, network=jax.device_put(model.network, NamedSharding(mesh, P())))
