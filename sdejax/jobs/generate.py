"""Any number of images: batch after batch on the devices of this process, by one compiled program.

The devices get the next batches before the results of the last one are needed, so they do not wait for Python. No
program spans processes: each process has seeds of its own and needs nothing from the others.
"""

import dataclasses
import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from sdejax.batch_invariance import batch_invariant, is_batch_invariant
from sdejax.jobs.ranges import BATCH
from sdejax.model.model import Model
from sdejax.noise.keys import keys
from sdejax.runtime.batches import DeviceClock, chunked, in_batches
from sdejax.runtime.hardware import Device
from sdejax.runtime.sharding import image_mesh, spread
from sdejax.sampling.sample import sample
from sdejax.solvers.sampler import Sampler


def generate(
    model: Model,
    seeds: Iterable[int],
    *,
    prompt: str | Iterable[str] = "",
    guidance: ArrayLike | None = None,
    negative: str = "",
    sampler: Sampler | None = None,
    batch: int = BATCH,
    devices: Sequence[Device] | None = None,
    clock: DeviceClock | None = None,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Draw an image for each seed on all devices of this process.

    **Arguments:**

    - `seeds`: whole numbers from 0 to 2^32 - 1. They are taken one by one, so a `range` of any length takes no memory.
      If there are several processes, give each its own seeds: `seeds[jax.process_index() :: jax.process_count()]`.
    - `prompt`: a text for all images, or an iterable with a text for each seed. `guidance`, `negative`: as in
      `Model.denoiser`.
    - `sampler`: steps, grid, solver, stochasticity; by default as in `sample`.
    - `batch`: how many images a device computes at once. The last batch is filled up, so it compiles nothing. On a GPU
      or TPU, a seed is the same image bit for bit if the batch is the same. On a CPU the last bits also depend on the
      number of devices and threads, unless `sdejax.batch_invariant()` is in force when `generate` is called. Then they
      depend on neither, nor on the batch (docs/pods.md).
    - `devices`: some of `jax.local_devices()`, by default all.
    - `clock`: a `DeviceClock` that measures how long the devices work.

    **Returns:** an iterator of batches in the order of the seeds: a list of n seeds, and their images (n, h, w, c),
    float32, in the data's range, not clipped. n is `batch` times the number of devices, or less in the last batch.

    **Raises:** `ValueError` for an argument outside its range, or for fewer prompts than seeds.
    """
    if batch < 1:
        raise ValueError(f"batch={batch}: must be at least 1")
    mesh = image_mesh(jax.local_devices() if devices is None else list(devices))
    model = on_every_device(model, mesh)
    # A caller may iterate after it has left `with batch_invariant()`, or in another thread.
    invariant = is_batch_invariant()
    one = model.denoiser(prompt, guidance, negative) if isinstance(prompt, str) else None

    def compute(items: list[tuple[int, str]]) -> jax.Array:
        given = [negative] * len(items) if guidance is not None else negative
        denoiser = one or model.denoiser([text for _, text in items], guidance, given)
        keyed = spread(keys(seed for seed, _ in items), mesh)
        with batch_invariant(invariant):
            return sample(denoiser, model.sde, keyed, model.shape, sampler=sampler)

    size = batch * mesh.size
    texts = itertools.repeat("") if isinstance(prompt, str) else itertools.chain(prompt, [None])
    chunks = ((chunk, compute) for chunk in chunked(_with_texts(seeds, texts), size))
    batches = in_batches(chunks, size, clock)
    return (([seed for seed, _ in items], images) for items, images in batches)


def _with_texts(seeds: Iterable[int], texts: Iterable[str | None]) -> Iterator[tuple[int, str]]:
    """Each seed with its text; a text of None tells that there are no more."""
    for seed, text in zip(seeds, texts, strict=False):
        if text is None:
            raise ValueError(f"prompt: there are fewer texts than seeds; seed {seed} has none")
        try:
            yield operator.index(seed), text
        except TypeError:
            raise ValueError(f"seeds: {seed!r}: must be whole numbers") from None


def on_every_device(model: Model, mesh: Mesh) -> Model:
    """The model with its parameters on each device of a mesh, so that calls need not copy them there."""
    return dataclasses.replace(model, network=jax.device_put(model.network, NamedSharding(mesh, P())))
