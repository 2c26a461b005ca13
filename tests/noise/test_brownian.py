"""Eq. 5: one Brownian path per image, a function of its key."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.noise.brownian import BrownianPaths, clock, log_tau_at
from sdejax.noise.keys import stream

IMAGES = 4096
KEYS = sj.keys(range(IMAGES))
SHAPE = (4,)
VALUES = IMAGES * SHAPE[0]


@jax.jit
def at(paths, points):
    """W at the points, (n, b, *shape)."""
    return jax.lax.map(paths.evaluate, points)


@pytest.fixture(scope="module")
def path():
    """W at uneven points that are no dyadic numbers, and the points."""
    points = jnp.asarray(np.linspace(0.0, 1.0, 30) ** 1.3, jnp.float32)
    return points, np.asarray(at(BrownianPaths(KEYS, SHAPE, depth=9), points), np.float64).reshape(30, -1)


def test_every_point_has_the_variance_of_its_time(path):
    points, w = path
    assert np.all(w[0] == 0.0)
    # 4.5 standard errors, sqrt(2 / n) each; a path that is linear between its dyadic points lacks up to half a
    # leaf, and one on another clock is off by its whole scale.
    np.testing.assert_allclose(w[1:].var(axis=1), points[1:], rtol=4.5 * (2.0 / VALUES) ** 0.5)
    # 4.5 standard errors of a mean; catches keys that share their normals.
    assert np.all(np.abs(w[1:].mean(axis=1)) < 4.5 * np.sqrt(points[1:] / VALUES))


def test_the_unit_noises_of_disjoint_steps_are_independent(path):
    points, w = path
    noise = np.diff(w, axis=0) / np.sqrt(np.diff(points))[:, None]
    # 5 standard errors for 406 pairs; noises of a tree that is too shallow correlate by 0.1 and more.
    np.testing.assert_allclose(noise @ noise.T / VALUES, np.eye(29), atol=5.0 * (2.0 / VALUES) ** 0.5)


def test_images_and_pixels_are_independent(path):
    _, w = path
    end = w[-1].reshape(IMAGES, SHAPE[0])
    # 5 standard errors; 1 where pixels or neighbouring seeds share a path.
    assert np.all(np.abs(np.corrcoef(end.T) - np.eye(SHAPE[0])) < 5.0 / IMAGES**0.5)
    assert abs(np.mean(end[1:] * end[:-1])) < 5.0 / VALUES**0.5


def test_the_starting_noise_is_unit_and_independent_of_the_path(path):
    _, w = path
    start = np.asarray(BrownianPaths(KEYS, SHAPE).start(), np.float64).reshape(-1)
    # 5 standard errors; 1 where start and path use one key.
    assert abs(start.var() - 1.0) < 5.0 * (2.0 / VALUES) ** 0.5
    assert np.all(np.abs(w @ start / VALUES) < 5.0 / VALUES**0.5)


def test_streams_of_one_image_are_independent_and_follow_the_key():
    paths = [BrownianPaths(stream(KEYS, i), SHAPE).start() for i in range(3)]
    for i in range(3):
        for j in range(i):
            # 5 standard errors; 1 where the number does not reach the key.
            assert abs(float(jnp.mean(paths[i] * paths[j]))) < 5.0 / VALUES**0.5
    alone = BrownianPaths(stream(KEYS[7:8], 2), SHAPE).start()
    np.testing.assert_array_equal(alone[0], paths[2][7])


def test_any_order_of_evaluation_is_the_same_path():
    paths = BrownianPaths(KEYS[:16], SHAPE, depth=8)
    points = jnp.linspace(0.0, 1.0, 23)
    order = np.random.default_rng(0).permutation(23)
    np.testing.assert_array_equal(at(paths, points)[order], at(paths, points[order]))


def test_a_walk_is_the_same_path_in_rising_order():
    paths = BrownianPaths(KEYS[:16], SHAPE, depth=9)
    points = np.sort(np.r_[0.0, 0.0, 0.25, 0.5, 0.5, np.random.default_rng(0).random(60), 1.0, 1.0]).astype(np.float32)
    walked = jax.jit(lambda points: jax.lax.scan(lambda walk, s: walk.to(s), paths.walk(), points)[1])(points)
    # Rounding of values up to 2.5; a node kept too long is off by a leaf's 0.04, halves with each other's keys by 1.
    np.testing.assert_allclose(walked, at(paths, jnp.asarray(points)), atol=1e-6)


def test_a_step_of_a_walk_descends_only_where_the_tree_has_not_been():
    depth, steps = 10, 64
    walk = BrownianPaths(KEYS[:1], SHAPE, depth).walk()
    points = jnp.arange(1, steps + 1) / steps
    walks = jax.jit(lambda walk: jax.lax.scan(lambda walk, s: (walk.to(s)[0],) * 2, walk, points)[1])(walk)
    before = np.concatenate([walk.left[None], walks.left[:-1]])
    # Leaves 16 apart: the 5 levels from 6 to 10 are new at every step, and 2^n nodes at each level n above; from the
    # root at every step it would be 640.
    assert 5 * steps <= np.sum(before != walks.left) <= 5 * steps + 2**6


def test_an_image_has_the_same_path_alone_and_in_a_batch():
    # An image's shape: XLA computes the last few values of an array, those that fill no vector, by other instructions.
    points, shape = jnp.linspace(0.0, 1.0, 23), (8, 8, 3)
    batch = at(BrownianPaths(KEYS[:16], shape, depth=8), points)
    alone = at(BrownianPaths(KEYS[5:6], shape, depth=8), points)
    np.testing.assert_array_equal(batch[:, 5:6], alone)


def test_a_deeper_tree_refines_the_same_path():
    dyadic = jnp.arange(65) / 64.0
    shallow, deep = (at(BrownianPaths(KEYS[:16], SHAPE, depth=depth), dyadic) for depth in (6, 13))
    # Rounding; another path is off by about 1, a spline that misses its knots by sqrt(1 / 64).
    np.testing.assert_allclose(shallow, deep, atol=2e-6)


def test_increments_are_differences_of_the_path_and_carry_the_levy_area_that_was_asked_for():
    paths = BrownianPaths(KEYS, SHAPE, depth=8, levy_area=diffrax.SpaceTimeLevyArea)
    s0, s1 = 0.23, 0.71
    step, (w0, w1) = jax.jit(lambda s: (paths.increment(s[0], s[1]), jax.lax.map(paths.evaluate, s)))(
        jnp.array([s0, s1])
    )
    # Rounding.
    np.testing.assert_allclose(step.W, w1 - w0, atol=2e-6)
    np.testing.assert_allclose(step.dt, s1 - s0, rtol=1e-6)
    # H is N(0, dt / 12) and independent of W, to 5 standard errors; without the 1 / 12, or H times dt, off by half.
    assert abs(float(step.H.var()) / ((s1 - s0) / 12.0) - 1.0) < 5.0 * (2.0 / VALUES) ** 0.5
    assert abs(np.corrcoef(step.W.reshape(-1), step.H.reshape(-1))[0, 1]) < 5.0 / VALUES**0.5


def test_the_clock_runs_from_noise_to_data_over_levels_1e4_to_1e_minus_4():
    # float32 of log tau up to 18; a clock over levels where tau is meant has 1 / 4 and 3 / 4 at other places.
    levels = np.array([1e4, 1e2, 1.0, 1e-2, 1e-4])
    np.testing.assert_allclose(clock(np.log(levels**2)), [0.0, 0.25, 0.5, 0.75, 1.0], atol=1e-6)
    s = np.linspace(0.0, 1.0, 101).astype(np.float32)
    np.testing.assert_allclose(clock(log_tau_at(s)), s, atol=1e-6)
    assert float(clock(100.0)) == 0.0
    assert float(clock(-100.0)) == 1.0
