"""Noise to images."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from sdejax.denoiser.protocol import Denoiser
from sdejax.noise.brownian import BrownianPaths
from sdejax.noise.keys import check_keys, stream
from sdejax.pytrees import pytree
from sdejax.runtime.jit import jit
from sdejax.sde.base import SDE
from sdejax.solvers.problem import Components, Problem, State
from sdejax.solvers.sampler import Sampler, with_grid
from sdejax.solvers.solve import OnStep, solve, stepwise


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


@partial(jit, static_argnames=("sde", "shape", "sampler"), images=("keys",))
def _sample(denoiser, keys, sde, shape, sampler):
    start = jnp.ones(())
    problem = Problem(_Alone(denoiser), Components((sampler.stochasticity,)), sde, keys)
    (images,) = solve(problem, (_noise(keys, sde, shape),), start, sampler)
    return images


@partial(jit, static_argnames=("sde", "shape"), images=("keys",))
def _noise(keys, sde, shape):
    """The state at t = 1: pure noise."""
    return sde.sigma(jnp.ones(())) * BrownianPaths(stream(keys, 0), shape).start()


def sample(
    denoiser: Denoiser,
    sde: SDE,
    keys: jax.Array,
    shape: tuple[int, ...],
    *,
    sampler: Sampler | None = None,
    on_step: OnStep | None = None,
) -> jax.Array:
    """Draw one image for each key: noise at t = 1, then the reverse process (Song et al. 2021, eq. 6; eq. 8 to 10).

    **Arguments:**

    - `denoiser`: a callable pytree D(t, x), such as `model.denoiser("red apple", guidance=2.0)`.
    - `sde`: the process that `denoiser` belongs to.
    - `keys`: (b,) keys; image k depends on key k alone, whatever the batch and the devices.
    - `shape`: of one image, such as (height, width, channels).
    - `sampler`: steps, grid, solver, stochasticity; by default 20 steps of the second-order exponential solver on the
      "edm" grid.
    - `on_step`: called as on_step(step, t, D) after each step, for progress bars and previews: its number from 0, its
      time, and the expected image D (b, *shape). If it returns False, D is the result. Without it nothing is compiled
      for it.

    **Returns:** (b, *shape), in the data's range ([-1, 1] for images, not clipped). Jit-compiled: another denoiser of
    the same structure compiles nothing. Keys spread over a mesh give images spread over it, without communication.

    **Raises:** `ValueError` if `keys` are not one per image, or the sampler cannot be watched by `on_step`.
    """
    check_keys(keys)
    sampler, shape = with_grid(sampler, "edm"), tuple(shape)
    if on_step is None:
        return _sample(denoiser, keys, sde, shape, sampler)
    problem = Problem(_Alone(denoiser), Components((sampler.stochasticity,)), sde, keys)
    images = _noise(keys, sde, shape)
    for step in stepwise(problem, (images,), np.float32(1.0), sampler):  # pyright: ignore[reportArgumentType]
        (images,), (expected,) = step.state, step.signals
        assert expected is not None
        if on_step(step.number, step.t, expected) is False:
            return expected
    return images
