"""Noise to images."""

import dataclasses
from collections.abc import Iterable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from sdejax.brownian import BrownianPaths, stream
from sdejax.compiling import jit
from sdejax.denoiser import Denoiser, pytree
from sdejax.parallel import mesh_of, over_images
from sdejax.problem import Components, Problem, State
from sdejax.sampler import Sampler
from sdejax.sde import SDE
from sdejax.solve import solve


def keys(seeds: Iterable[int]) -> jax.Array:
    """One key per seed, (b,): an image is its seed.

    **Raises:** `ValueError` for no seeds, or a seed outside 0 to 2^32 - 1.
    """
    seeds = [int(seed) for seed in seeds]
    if not seeds or not all(0 <= seed < 2**32 for seed in seeds):
        raise ValueError(f"seeds={seeds}: must be at least one whole number from 0 to {2**32 - 1}")
    return _keys(np.asarray(seeds, np.uint32))  # by numpy: jax would compile a program for it


@jit
def _keys(seeds: ArrayLike) -> jax.Array:
    return jax.vmap(jax.random.key)(seeds)


def check_keys(keys: jax.Array) -> None:
    """**Raises:** `ValueError` unless `keys` is a (b,) array of typed keys."""
    if not hasattr(keys, "dtype") or not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.ndim != 1:
        raise ValueError("keys: must be a (b,) array of keys, one per image, such as sdejax.keys(range(8))")


@pytree
@dataclasses.dataclass(frozen=True)
class _Alone:
    """One component, moved by its denoiser."""

    denoiser: Denoiser

    def __call__(self, t: jax.Array, state: State) -> State:
        return (self.denoiser(t, state[0]),)

    def noise(self, state: State, unit: State) -> State:
        del state
        return unit


@partial(jit, static_argnames=("sde", "shape", "sampler", "layout"))
def _sample(denoiser, keys, sde, shape, sampler, layout):
    def run(denoiser, keys):
        start = jnp.ones(())
        noise = BrownianPaths(stream(keys, 0), shape).start()
        problem = Problem(_Alone(denoiser), Components((sampler.stochasticity,)), sde, keys)
        (images,) = solve(problem, (sde.sigma(start) * noise,), start, sampler)
        return images

    return over_images(run, layout, denoiser, (keys,))


def sample(
    denoiser: Denoiser, sde: SDE, keys: jax.Array, shape: tuple[int, ...], *, sampler: Sampler | None = None
) -> jax.Array:
    """Draw one image for each key: noise at t = 1, then the reverse process (Song et al. 2021, eq. 6; eq. 8 to 10).

    **Arguments:**

    - `denoiser`: a callable pytree D(t, x), such as `model.denoiser("red apple", guidance=2.0)`.
    - `sde`: the process that `denoiser` belongs to.
    - `keys`: (b,) keys; image k depends on key k alone, whatever the batch and the devices.
    - `shape`: of one image, such as (height, width, channels).
    - `sampler`: steps, grid, solver, stochasticity.

    **Returns:** (b, *shape), the data's range ([-1, 1] for images, not clipped). Jit-compiled: another denoiser of the
    same structure compiles nothing. Keys spread over a mesh give images spread over it, without communication.

    **Raises:** `ValueError` where `keys` are not one per image.
    """
    check_keys(keys)
    return _sample(denoiser, keys, sde, tuple(shape), sampler or Sampler(), mesh_of(keys))
