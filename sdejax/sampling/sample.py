"""Noise to images."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from sdejax.denoiser.protocol import Denoiser
from sdejax.noise.brownian import BrownianPaths
from sdejax.noise.keys import check_keys, stream
from sdejax.pytrees import pytree
from sdejax.runtime.jit import jit
from sdejax.runtime.sharding import mesh_of, over_images
from sdejax.sde.base import SDE
from sdejax.solvers.problem import Components, Problem, State
from sdejax.solvers.sampler import Sampler
from sdejax.solvers.solve import solve


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
