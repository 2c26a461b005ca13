"""Scores of images whose values are known in closed form."""

import numpy as np
import pytest

from sdejax.evaluation.metrics import (
    PSNR_CAP,
    Candidates,
    bootstrap_interval,
    check_finite,
    kept_pixels,
    l1,
    preservation,
    psnr,
    ssim,
)


def _images(n, side=16, channels=3, seed=0):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (n, side, side, channels)).astype(np.float32)


def test_l1_is_the_mean_difference_of_clipped_images():
    """Rejects the mean of squares (0.01), a range of [0, 1] (0.05), and images that are not clipped."""
    images = _images(3) * 0.5
    np.testing.assert_allclose(l1(images, images + np.float32(0.1)), 0.1, rtol=1e-6)
    far = np.full_like(images, 7.0)
    np.testing.assert_allclose(l1(far, np.ones_like(images)), 0.0)


@pytest.mark.parametrize("offset", [0.02, 0.3])
def test_psnr_of_a_constant_offset(offset):
    """The ratio is 20 log10(2 / offset). Rejects a peak of 1 (6 dB less) or 255, and the L1 norm.

    In the second case half of the pixels differ by twice the offset. This doubles the mean square, but not the L1 norm.
    """
    images = _images(2) * 0.3
    np.testing.assert_allclose(psnr(images, images + np.float32(offset)), 20 * np.log10(2 / offset), rtol=1e-5)
    half = images.copy()
    half[:, ::2] += np.float32(2 * offset)
    np.testing.assert_allclose(psnr(images, half), 20 * np.log10(2 / offset) - 10 * np.log10(2), rtol=1e-5)


def test_psnr_of_equal_images_is_the_cap_and_rounding_to_files_is_below_it():
    images = _images(2, 64)
    np.testing.assert_array_equal(psnr(images, images), PSNR_CAP)
    rounded = np.rint((images + 1) * 127.5) / 127.5 - 1
    assert (psnr(images, rounded) < PSNR_CAP).all()
    np.testing.assert_allclose(psnr(images, rounded), 58.9, atol=0.1)


def test_ssim_of_one_window_is_its_formula():
    """An image of 11 x 11 pixels has one window, so the paper's formula can be computed directly.

    The tolerance 1e-4 covers dm-pix's variances in float32. Rejects a flat window, another width (1.0 or 2.0 differ by
    more than 0.005 here), data in [-1, 1] with a range of 1, and swapped constants k1 and k2.
    """
    a = _images(1, 11, 1)
    b = np.clip(0.7 * a + 0.3 * _images(1, 11, 1, seed=1) + 0.1, -1, 1)
    at = np.arange(11) - 5
    weights = np.exp(-0.5 * (at[:, None] ** 2 + at**2) / 1.5**2)
    weights /= weights.sum()
    x, y = (0.5 * image[0, ..., 0].astype(np.float64) + 0.5 for image in (a, b))
    mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
    var_x, var_y = (weights * (x - mean_x) ** 2).sum(), (weights * (y - mean_y) ** 2).sum()
    both = (weights * (x - mean_x) * (y - mean_y)).sum()
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * mean_x * mean_y + c1) * (2 * both + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    np.testing.assert_allclose(ssim(a, b), expected, atol=1e-4)


@pytest.mark.parametrize("side", [32, 11, 8, 3])
def test_ssim_of_equal_and_of_flat_images_at_every_size(side):
    """The similarity is 1 for equal images, and known for flat images, which differ only in the mean.

    The tolerance 1e-3 covers variances of 0 in float32, which are added to c2 = 9e-4. Rejects a window larger than the
    image, which dm-pix swaps with the image, and which gives flat images another score.
    """
    images = _images(2, side)
    np.testing.assert_allclose(ssim(images, images), 1.0, atol=1e-6)
    a, b = np.full((1, side, side, 3), -0.2, np.float32), np.full((1, side, side, 3), 0.6, np.float32)
    np.testing.assert_allclose(ssim(a, b), (2 * 0.4 * 0.8 + 1e-4) / (0.4**2 + 0.8**2 + 1e-4), atol=1e-3)


def test_preservation_ignores_what_the_truth_changes():
    """A change costs its size, unless the truth changes the pixel by more than the threshold of 4 of 255 levels."""
    source = np.full((1, 8, 8, 3), 0.2, np.float32)
    truth = source.copy()
    truth[0, 2:5, 3:7, 1] = -0.5  # a change in one channel is enough
    truth[0, 0, 0] += np.float32(4 / 127.5)
    truth[0, 0, 1] += np.float32(5 / 127.5)
    kept = kept_pixels(source, truth)
    expected = np.ones((1, 8, 8), bool)
    expected[0, 2:5, 3:7] = expected[0, 0, 1] = False
    np.testing.assert_array_equal(kept, expected)

    found = preservation(truth, source, expected)
    np.testing.assert_allclose(found.values, 4 / 127.5 / expected.sum(), rtol=1e-5)
    result = np.where(expected[..., None], source + np.float32(0.1), np.float32(1.0))
    np.testing.assert_allclose(preservation(result, source, expected).values, 0.1, rtol=1e-5)


def test_an_edit_that_may_change_everything_has_no_preservation_score():
    source = np.zeros((2, 8, 8, 3), np.float32)
    truth = np.stack([np.ones((8, 8, 3), np.float32), source[1]])
    found = preservation(truth, source, kept_pixels(source, truth))
    np.testing.assert_array_equal(found.exists, [False, True])
    assert np.isfinite(found.values).all()


def test_the_truth_is_nearest_to_itself_and_equal_drawings_count_as_one():
    images = _images(50, 8)
    images[7] = images[3]
    images[9] = images[8] + np.float32(1 / 127.5) * (np.arange(8) == 4)[:, None, None]  # nearly equal to image 8
    candidates = Candidates.of(images)
    assert candidates.nearest_is(images, images).all()
    assert candidates.nearest_is(images[3:4], images[7:8]).all()
    assert not candidates.nearest_is(images[8:9], images[9:10]).any()
    # The result is far from the truth, but nearer to it than to any other image.
    between = 0.6 * images[:1] + 0.4 * images[1:2]
    assert candidates.nearest_is(between, images[:1]).all()
    assert not candidates.nearest_is(between, images[1:2]).any()


def test_an_interval_covers_the_mean_at_about_its_level():
    """The intervals of about 94.5% of 500 sets of 60 normal numbers should contain the mean; the deviation is 1%.

    Rejects an interval of the values themselves (100%), an interval with 5% in each tail (90%), and one of the sum.
    """
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        low, high = bootstrap_interval(random.normal(3.0, 2.0, 60), resamples=500)
        covered += low <= 3.0 <= high
    assert 0.92 <= covered / 500 <= 0.97


def test_an_interval_is_reproducible_and_that_of_one_value_is_this_value():
    values = np.random.default_rng(1).normal(size=20)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(np.array([2.5])) == (2.5, 2.5)
    for wrong in (np.array([]), np.array([1.0, np.nan])):
        with pytest.raises(ValueError, match="must be"):
            bootstrap_interval(wrong)


def test_nan_is_an_error_that_names_the_edit():
    with pytest.raises(ValueError, match=r"^edit='b': .*l1.*nan"):
        check_finite("l1", np.array([0.0, np.nan]), ["a", "b"])
    broken = _images(1)
    broken[0, 0, 0, 0] = np.nan
    assert np.isnan(l1(broken, broken)).all() and np.isnan(psnr(broken, _images(1))).all()  # clipping does not hide it
