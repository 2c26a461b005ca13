"""Time grids and the checks of `Sampler`."""

import diffrax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.noise.brownian import clock
from sdejax.sde.variance_exploding import VESDE
from sdejax.sde.variance_preserving import VPSDE
from sdejax.solvers.diffrax_solver import Diffrax
from sdejax.solvers.exponential import Exponential
from sdejax.solvers.problem import depth_of, log_tau_of
from sdejax.solvers.sampler import Sampler

GRIDS = ["log_snr", "time", "edm"]


def times(sde, start, steps, grid):
    return np.asarray(Sampler(steps=steps, grid=grid).times(sde, jnp.float32(start)), np.float64)


@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_falls_from_its_start_in_steps_times(sde, grid):
    for steps in (1, 2, 37):
        for start in (1.0, 0.37, 0.2):
            t = times(sde, start, steps, grid)
            assert t.shape == (steps,)
            assert t[0] == np.float32(start)  # no round trip through tau, which is infinite at RF's t = 1
            assert np.all(np.diff(t) < 0.0)
            if steps > 1 and grid != "time":
                # float32; a grid that stops one step early ends 10% and more above the smallest level.
                np.testing.assert_allclose(float(sde.tau(t[-1])), sde.tau_min, rtol=0.01)


@pytest.mark.parametrize("grid", ["log_snr", "edm"])
def test_a_start_below_the_smallest_level_stays_there(sde, grid):
    start = 1e-5
    t = times(sde, start, 5, grid)
    assert t[0] == np.float32(start)
    assert np.all(np.diff(t) <= 0.0)
    # VE's smallest level is that of t = 0, to rounding; the others stay. A grid that goes up to the smallest level
    # ends at 1e-3 and above, and the first assertion catches one that starts there.
    np.testing.assert_allclose(t, start, atol=1.1e-5 if isinstance(sde, VESDE) else 1e-7)


def test_log_snr_is_uniform_in_log_tau(sde):
    gaps = np.diff(np.log(np.asarray(sde.tau(times(sde, 0.8, 33, "log_snr")), np.float64)))
    # float32 of log tau; a grid uniform in t or in tau^(1/7) varies by a factor 2 and more.
    np.testing.assert_allclose(gaps, gaps.mean(), rtol=2e-3)


def test_edm_is_uniform_in_the_seventh_root_of_the_level(sde):
    roots = np.asarray(sde.tau(times(sde, 0.8, 33, "edm")), np.float64) ** (1.0 / 14.0)
    # float32; the root of tau in place of that of the level is another curve, off by 10% and more.
    np.testing.assert_allclose(np.diff(roots), np.diff(roots).mean(), rtol=5e-3)


def test_time_is_uniform_down_to_its_last_step(sde):
    # float32; a grid that ends at 0, where the last step is to be taken from, is off by start / steps.
    np.testing.assert_allclose(times(sde, 0.8, 4, "time"), [0.8, 0.6, 0.4, 0.2], rtol=1e-6)


def test_grids_of_your_own():
    sde = VPSDE()
    np.testing.assert_allclose(times(sde, 0.5, 3, (1.0, 0.4, 0.1)), [0.5, 0.2, 0.05], rtol=1e-6)
    np.testing.assert_allclose(
        times(sde, 0.5, 3, lambda sde, start, steps: start * 0.5 ** jnp.arange(steps)), [0.5, 0.25, 0.125]
    )


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("steps", [2, 10, 50, 1000])
def test_no_two_times_share_a_leaf_of_the_tree(sde, grid, steps):
    """Two points in one leaf of the tree do not have a Brownian path's joint law; one point in each does."""
    s = clock(log_tau_of(sde, jnp.asarray(times(sde, 1.0, steps, grid), jnp.float32)))
    # A tree with one halving fewer for the steps of its grids fails at some of these.
    assert np.min(np.diff(np.asarray(s, np.float64))) > 2.0 ** -depth_of(steps)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": 2.0}, "steps=2.0"),
        ({"steps": True}, "steps=True"),
        ({"stochasticity": -0.1}, "stochasticity=-0.1"),
        ({"stochasticity": float("inf")}, "stochasticity=inf"),
        ({"stochasticity": float("nan")}, "stochasticity=nan"),
        ({"grid": "cosine"}, "grid='cosine'"),
        ({"solver": "heun"}, "solver='heun'"),
        ({"solver": 2}, "solver=2"),
        ({"grid": [1.0, 0.5], "steps": 2}, "grid=[1.0, 0.5]"),
        ({"grid": (1.0, 0.5), "steps": 3}, "steps=3"),
        ({"grid": (0.9, 0.5), "steps": 2}, r"grid=(0.9, 0.5)"),
        ({"grid": (1.0, 1.0), "steps": 2}, r"grid=(1.0, 1.0)"),
        ({"grid": (1.0, 0.0), "steps": 2}, r"grid=(1.0, 0.0)"),
        ({"grid": (), "steps": 1}, "grid=()"),
    ],
)
def test_arguments_outside_their_range_are_refused_by_name_and_value(arguments, named):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        Sampler(**arguments)
    assert named in str(error.value)


@pytest.mark.parametrize("order", [0, 3, 1.5, True])
def test_the_exponential_solver_has_orders_1_and_2(order):
    with pytest.raises(ValueError, match=f"order={order}"):
        Exponential(order)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Exponential(2, "langevin"), "corrector='langevin'"),
        (lambda: Diffrax("heun"), "solver='heun'"),
        (lambda: Diffrax(diffrax.Heun(), 1e-3), "controller=0.001"),
        (lambda: Diffrax(diffrax.Heun(), adjoint=1), "adjoint=1"),
    ],
)
def test_parts_of_a_solver_are_refused_by_name_and_value(make, named):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        make()
    assert named in str(error.value)


def test_a_diffrax_solver_alone_is_diffrax_on_the_grid():
    assert Sampler(solver=diffrax.Heun()) == Sampler(solver=Diffrax(diffrax.Heun()))
    assert hash(Sampler(solver=diffrax.Heun())) == hash(Sampler(solver=Diffrax(diffrax.Heun())))


def test_a_sampler_without_a_grid_takes_that_of_what_is_solved():
    """Images of two grids differ; each editor's default equals its own grid, asked for."""
    sde = VPSDE()
    one, other, keys = sj.GaussianDenoiser(sde, 0.2, 0.3), sj.GaussianDenoiser(sde, -0.4, 0.6), sj.keys([0, 1])
    image = jnp.full((1, 2, 2, 1), 0.5)
    runs = {
        "sample": lambda **how: sj.sample(one, sde, keys, (2, 2, 1), **how),
        "sdedit": lambda **how: sj.sdedit(one, sde, image, keys, **how),
        "sync_sde": lambda **how: sj.sync_sde(one, other, sde, image, keys, **how),
        "flow_edit": lambda **how: sj.flow_edit(one, other, sde, image, keys, **how),
        "fire_flow": lambda **how: sj.fire_flow(one, other, sde, image, keys, **how),
    }
    for name, run in runs.items():
        own, other_grid = ("edm", "log_snr") if name in ("sample", "sdedit") else ("log_snr", "edm")
        default = np.asarray(run())
        np.testing.assert_array_equal(default, run(sampler=Sampler(20, own)))
        assert np.abs(default - run(sampler=Sampler(20, other_grid))).max() > 1e-4, name
