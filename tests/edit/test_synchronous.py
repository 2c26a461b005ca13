"""Eq. 14b: synchronous(N) averages the pull over N paths and keeps their memory.

Between N(m1, s1^2) and N(m2, s2^2) the pull D_target(t, z + d) - D_source(t, z) is linear in d and in the noise of z.
So d is linear in the N paths, which it sees through their mean: its variance over seeds is exactly 1 / N of one path's,
and its mean does not depend on N.
"""

import jax
import numpy as np

import sdejax as sj

SDE = sj.RectifiedFlow()
SHAPE = (2, 2, 3)
IMAGE = np.asarray(jax.random.uniform(jax.random.key(0), (1, *SHAPE), minval=-1.0))
SEEDS = 512


def moved(coupling):
    source, target = sj.GaussianDenoiser(SDE, -0.3, 0.5), sj.GaussianDenoiser(SDE, 0.4, 0.9)
    edited = sj.sync_sde(
        source, target, SDE, IMAGE, sj.keys(range(SEEDS)), strength=0.7, sampler=sj.Sampler(8), coupling=coupling
    )
    return np.asarray(edited - IMAGE, np.float64).reshape(SEEDS, -1)


def test_the_variance_over_seeds_falls_as_1_over_the_number_of_paths():
    one, three = moved("synchronous"), moved("synchronous(3)")
    assert one.std(0).min() > 0.1
    # The mean over values of each value's variance over seeds, to 4.5 standard errors of their ratio. A sum in place of
    # the mean, or one path for all, is off by a half and more.
    ratio = 3.0 * three.var(0).mean() / one.var(0).mean()
    assert abs(ratio - 1.0) < 4.5 * (4.0 / one.size) ** 0.5
    # 4.5 standard errors of the difference of means.
    assert np.all(np.abs(three.mean(0) - one.mean(0)) < 4.5 * np.sqrt((one.var(0) + three.var(0)) / SEEDS))
    # The change by three paths is the mean of the changes by each, and the first of these is the change by one path
    # alone. So the correlation is 1 / sqrt(3), to 4.5 standard errors; 0 if three paths are other paths than one.
    pairs = np.stack([one - one.mean(0), three - three.mean(0)]).reshape(2, -1)
    assert abs(np.corrcoef(pairs)[0, 1] - 3.0**-0.5) < 4.5 * (2.0 / 3.0) / one.size**0.5


def test_one_path_is_sync_sde_bit_for_bit():
    np.testing.assert_array_equal(moved("synchronous(1)"), moved("synchronous"))
