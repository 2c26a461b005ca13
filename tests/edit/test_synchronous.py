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
SEEDS = 1024


def moved(coupling, seeds=SEEDS):
    source, target = sj.GaussianDenoiser(SDE, -0.3, 0.5), sj.GaussianDenoiser(SDE, 0.4, 0.9)
    edited = sj.sync_sde(
        source, target, SDE, IMAGE, sj.keys(range(seeds)), strength=0.7, sampler=sj.Sampler(8), coupling=coupling
    )
    return np.asarray(edited - IMAGE, np.float64).reshape(seeds, -1)


def test_the_variance_over_seeds_falls_as_1_over_the_number_of_paths():
    one, several = moved("synchronous"), {count: moved(f"synchronous({count})") for count in (2, 4)}
    assert one.std(0).min() > 0.1
    # The mean over values of each value's variance over seeds, to 4.5 standard errors of it.
    error = 4.5 * (2.0 / one.size) ** 0.5
    for count, changes in several.items():
        # A sum in place of the mean, one path for all, or the mean of states in place of pulls on states of their own
        # (which keeps the variance of one) are off by a half and more.
        assert abs(count * changes.var(0).mean() / one.var(0).mean() - 1.0) < 2.0**0.5 * error
        gap = 4.5 * np.sqrt((one.var(0) + changes.var(0)) / SEEDS)
        assert np.all(np.abs(changes.mean(0) - one.mean(0)) < gap)


def test_one_path_is_sync_sde_bit_for_bit_and_the_first_of_several_is_that_path():
    np.testing.assert_array_equal(moved("synchronous(1)", 4), moved("synchronous", 4))
    one, two = moved("synchronous"), moved("synchronous(2)")
    # The change of two is half that of the first path and half of the second's: their correlation is 1 / sqrt(2), to
    # 4.5 standard errors. 0 if the paths were drawn anew for each number of them.
    pairs = np.stack([one - one.mean(0), two - two.mean(0)]).reshape(2, -1)
    assert abs(np.corrcoef(pairs)[0, 1] - 0.5**0.5) < 4.5 * 0.5 / one.size**0.5
