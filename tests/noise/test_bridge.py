"""Eq. 5: between two of its values a path is a Brownian bridge.

W(s) given W(s0) and W(s1) is N(W(s0) + u (W(s1) - W(s0)), u (1 - u) (s1 - s0)) with u = (s - s0) / (s1 - s0).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.noise.brownian import BrownianPaths

KEYS = sj.keys(range(8192))
SHAPE = (2,)
VALUES = 8192 * 2
# s0 < s < s1: far apart, in neighbouring leaves of a tree of depth 6, and with dyadic ends.
TRIPLES = [(0.137, 0.41, 0.903), (0.2969, 0.3201, 0.3399), (0.25, 0.3333, 0.5), (0.0, 0.001, 1.0)]


@jax.jit
def evaluated(paths, points):
    return jax.lax.map(paths.evaluate, points)


@jax.jit
def walked(paths, points):
    return jax.lax.scan(lambda walk, s: walk.to(s), paths.walk(), points)[1]


@pytest.mark.parametrize("way", [evaluated, walked], ids=["evaluate", "walk"])
def test_between_two_values_a_path_is_a_bridge(way):
    paths = BrownianPaths(KEYS, SHAPE, depth=6)
    points = np.unique(np.asarray(TRIPLES, np.float32))
    values = dict(
        zip(points, np.asarray(way(paths, jnp.asarray(points)), np.float64).reshape(len(points), -1), strict=True)
    )
    for s0, s, s1 in np.asarray(TRIPLES, np.float32):
        share, (w0, w, w1) = float((s - s0) / (s1 - s0)), (values[s0], values[s], values[s1])
        unit = (w - w0 - share * (w1 - w0)) / np.sqrt(share * (1.0 - share) * float(s1 - s0))
        exact = np.asarray(jax.scipy.stats.norm.cdf(np.sort(unit)))
        # Kolmogorov and Smirnov's distance, exceeded once in 1000 times. Values that are linear between the leaves'
        # ends, the variance u (1 - u) without its length, or the free path's s in place of the bridge's, are at 0.1.
        rank = np.arange(VALUES + 1) / VALUES
        distance = max(np.max(rank[1:] - exact), np.max(exact - rank[:-1]))
        assert distance < 1.95 / VALUES**0.5, (s0, s, s1)
        # Independent of the ends, to 4.5 standard errors; a share of another leaf leaves a part of them.
        for end in (w0, w1 - w0):
            if end.any():
                assert abs(np.corrcoef(unit, end)[0, 1]) < 4.5 / VALUES**0.5, (s0, s, s1)
