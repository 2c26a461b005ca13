"""The distance between samples and data that benchmarks/quality.py measures samplers by."""

import numpy as np

from benchmarks.quality import features, kernel_distance


def test_the_kernel_distance_of_gaussians_is_that_of_their_moments_without_bias():
    """With (xy + 1)^3 = 1 + 3 xy + 3 (xy)^2 + (xy)^3 it is 3 dm1^2 + 3 dm2^2 + dm3^2 of the raw moments.

    N(0, 1) and N(m, 1) have m1 0 and m, m2 1 and 1 + m^2, m3 0 and 3 m + m^3. 4 standard errors over 2000 draws of 20
    and 30 values. A biased estimate (with the diagonals) is too large by 2,000, a forgotten factor 2 of the mixed term
    by more.
    """
    random, m = np.random.default_rng(0), 0.5
    for shift, expected in ((0.0, 0.0), (m, 3 * m**2 + 3 * m**4 + (3 * m + m**3) ** 2)):
        found = [
            kernel_distance(random.standard_normal((20, 1)), shift + random.standard_normal((30, 1)))
            for _ in range(2000)
        ]
        error = np.std(found) / len(found) ** 0.5
        assert abs(np.mean(found) - 1000.0 * expected) < 4.0 * error
        assert error < 500.0


def test_features_are_the_means_of_blocks():
    image = np.zeros((1, 32, 32, 3))
    image[0, 4:8, 8:12, 1] = 0.5  # the block of row 1, column 2
    image[0, 0, 0, 0] = 5.0  # clipped to 1
    expected = np.zeros((8, 8, 3))
    expected[1, 2, 1], expected[0, 0, 0] = 0.5, 1.0 / 16.0
    np.testing.assert_allclose(features(image)[0], expected.ravel())
