"""A solve is a semigroup: from 1 to s, and from there to 0, is from 1 to 0, if s is on the grid.

The paths have the same depth in all of them (`Problem.depth`); by default it follows from the number of steps, and
between its dyadic points a path of another depth is another.
"""

import dataclasses
from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.noise.brownian import BrownianPaths
from sdejax.solvers.problem import Components, Problem
from tests.quick_keys import quick_keys

STEPS, CUT, DEPTH = 9, 4, 7
KEYS = quick_keys(6)
SHAPE = (3,)
MEANS = np.array([[-1.0, 0.2, 0.5], [0.1, -0.4, -0.9], [0.8, 0.9, 0.3]], np.float32)
# Images that begin at 1, whose values begin before and after s, and that never begin.
BEGIN = np.array([[1.0, 1.0, 1.0], [1.0, 0.5, 0.02], [0.0, 0.0, 0.0]], np.float32).repeat(2, axis=0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Alone:
    """One component, moved by its denoiser."""

    denoiser: sj.MixtureDenoiser

    def __call__(self, t, state):
        return (self.denoiser(t, state[0]),)

    def noise(self, state, unit):
        return unit


@partial(jax.jit, static_argnames=("sde", "solver"))
def both_ways(keys, sde, solver, begin):
    """D at 0 from 1, and by way of s: up to s in steps of their own, and from there with the rest of the times."""
    drive, start = Alone(sj.MixtureDenoiser(sde, jnp.ones(3), MEANS, 0.4)), jnp.ones(())
    problem = Problem(drive, Components((1.0,)), sde, keys, begin, DEPTH)
    x = sde.alpha(start) * 0.3 + sde.sigma(start) * BrownianPaths(keys, SHAPE).start()
    times = sj.Sampler(STEPS, "edm").times(sde, start)
    whole = solver.integrate(problem, (x,), times)[0]
    first = jax.tree.map(lambda leaf: leaf[:CUT], solver.schedule(problem, times[: CUT + 1]))

    def step(carry, now):
        return solver.step(problem, *carry, now, STEPS)[:2], None

    (state, memory), _ = jax.lax.scan(step, ((x,), solver.start(problem, (x,), times)), first)
    if not jax.tree.leaves(memory):
        return whole, solver.integrate(problem, state, times[CUT:])[0]
    # The history: D of the step before s, and that step's length, which a schedule from it on has.
    rest = jax.tree.map(lambda leaf: leaf[1:], solver.schedule(problem, times[CUT - 1 :]))
    return whole, jax.lax.scan(step, (state, memory), rest)[0][0][0]


@pytest.mark.parametrize(
    ("sde", "solver"),
    [
        (sj.VPSDE(), sj.Exponential(1)),
        (sj.RectifiedFlow(), sj.Exponential(2)),
        (sj.RectifiedFlow(), sj.Diffrax(diffrax.Heun())),
    ],
    ids=["VP Exponential(1)", "RF Exponential(2)", "RF Heun"],
)
def test_by_way_of_s_is_the_whole_way(sde, solver):
    whole, by_way = both_ways(KEYS, sde, solver, BEGIN)
    # Float32. A path of the depth of the remaining steps is off by 0.4, an extrapolation that is lost at s by 0.01, a
    # noise that counts the steps from s on anew by 0.5.
    np.testing.assert_allclose(by_way, whole, atol=2e-5)
