"""Langevin dynamics at one time, the corrector of predictor-corrector sampling (Song et al. 2021, algorithms 4, 5)."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from sdejax.noise.brownian import BrownianPaths
from sdejax.noise.keys import stream
from sdejax.solvers.problem import Problem, State

_STREAM = 2**20  # the stream of a corrector's noises; the paths of an image have the first few


@dataclasses.dataclass(frozen=True)
class Langevin:
    """`steps` steps of Langevin dynamics at each time, before the solver's own step.

    The paper's step size is 2 alpha (snr |noise| / |score|)^2, with alpha 1 for VE. Here it is 2 snr^2 sigma^2, which
    is the paper's if the noise has the norm of sigma times the score. So a step is linear in the state, and images do
    not depend on each other. Like eq. 9 it is exact if D is constant:

        x' = c x + (1 - c) alpha D + sigma sqrt(1 - c^2) xi,   c = exp(-2 snr^2)

    The paper's `snr` is 0.16 for VE and 0.01 to 0.2 for VP, with 1 step.

    **Raises:** `ValueError` if a field is outside its range.
    """

    snr: float = 0.16
    steps: int = 1

    def __post_init__(self) -> None:
        if not 0.0 < self.snr < math.inf:
            raise ValueError(f"snr={self.snr}: must be above 0 and finite")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"corrector steps={self.steps}: must be a whole number of at least 1")

    def correct(self, problem: Problem, state: State, t: jax.Array, number: jax.Array) -> State:
        """The state at time t after the steps. Their noises are the images' own, and no part of their paths."""
        alpha, sigma, begun = problem.sde.alpha(t), problem.sde.sigma(t), problem.begun(t)
        keep = math.exp(-2.0 * self.snr**2)
        spread = math.sqrt(-math.expm1(-4.0 * self.snr**2))

        def once(state: State, k: jax.Array) -> tuple[State, None]:
            own = stream(stream(problem.keys, _STREAM), number * self.steps + k)
            shape = state[0].shape[1:]
            unit = tuple(BrownianPaths(stream(own, i), shape).start() for i in range(problem.components.paths))
            signals, noises = problem.drive(t, state), problem.drive.noise(state, unit)
            moved = []
            for x, signal, noise, driven in zip(state, signals, noises, problem.components.driven, strict=True):
                acts = begun if driven else 1.0
                y = keep * x
                if signal is not None:
                    y = y + acts * (alpha * (1.0 - keep)) * signal
                if noise is not None:
                    y = y + acts * (sigma * spread) * noise
                moved.append(y)
            return tuple(moved), None

        return jax.lax.scan(once, state, jnp.arange(self.steps))[0]
