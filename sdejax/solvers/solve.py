"""The reverse process, solved in one program, or step by step so that it can be watched."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from sdejax.runtime.jit import jit
from sdejax.solvers.problem import Problem, Signals, State
from sdejax.solvers.sampler import Sampler
from sdejax.solvers.solver import SteppingSolver

OnStep = Callable[[int, float, jax.Array], bool | None]
"""Called after each step with its number from 0, its time, and D (b, *shape), which the device may still be computing.

A callback that returns False ends the solve: D is then the result.
"""


def solve(problem: Problem, state: State, start: jax.Array, sampler: Sampler) -> State:
    """Integrate every component from time `start` () to the data.

    `state` holds the components at `start`, (b, *shape) each. Returns the last D of each, 0 for pure noise.
    """
    return sampler.integrator().integrate(problem, state, sampler.times(problem.sde, start))


class Step(NamedTuple):
    """A step that was taken: its number, its time, the D of each component there, and the state after it."""

    number: int
    t: float
    signals: Signals
    state: State


def stepwise(problem: Problem, state: State, start: jax.Array, sampler: Sampler) -> Iterator[Step]:
    """`solve`, step by step: a generator whose last item holds the result of `solve` as its state.

    All steps run one compiled program, on the devices over which `problem.keys` are spread. Each step looks up its
    noise in the paths from their roots, which costs a little more than `solve` does.

    **Raises:** `ValueError` if the solver does not go step by step.
    """
    solver = sampler.integrator()
    if not isinstance(solver, SteppingSolver):
        raise ValueError(f"on_step: needs a solver that goes step by step; {solver!r} has no method step")
    parts = (problem.components, problem.sde, problem.depth, sampler)
    times, schedule = _plan(problem.drive, problem.keys, start, *parts)
    memory = _start(problem.drive, state, times, problem.keys, problem.begin, *parts)
    for number, t in enumerate(np.asarray(times)):
        now = jax.tree.map(lambda leaf, k=number: leaf[k], schedule)
        state, memory, signals = _step(problem.drive, state, memory, now, problem.keys, problem.begin, *parts)
        yield Step(number, float(t), signals, state)


_STATIC = ("components", "sde", "depth", "sampler")


@partial(jit, static_argnames=_STATIC)
def _plan(drive, keys, start, components, sde, depth, sampler):
    times = sampler.times(sde, start)
    return times, sampler.integrator().schedule(Problem(drive, components, sde, keys, None, depth), times)


@partial(jit, static_argnames=_STATIC, images=("keys", "begin", "state"))
def _start(drive, state, times, keys, begin, components, sde, depth, sampler):
    return sampler.integrator().start(Problem(drive, components, sde, keys, begin, depth), state, times)


@partial(jit, static_argnames=_STATIC, images=("keys", "begin", "state", "memory"))
def _step(drive, state, memory, now, keys, begin, components, sde, depth, sampler):
    problem = Problem(drive, components, sde, keys, begin, depth)
    return sampler.integrator().step(problem, state, memory, now, sampler.steps)
