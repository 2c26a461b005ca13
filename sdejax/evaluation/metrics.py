"""Scores of edits that need no network: distances of images, and what they are compared with.

Images are (n, h, w, c), clipped to [-1, 1], and each has its own score: (n,). In these units, one of 255 levels is
1 / 127.5. A mean over no pixels does not exist. So scores that may not exist come with a mask, and a score that is not
finite is an error.
"""

import dataclasses

import numpy as np

SAME = 4.0 / 127.5  # two values count as equal if they differ by at most 4 of 255 levels
PSNR_CAP = 60.0  # dB; rounding to 8 bits alone gives 58.9
_WINDOW, _WINDOW_STD = 11, 1.5


def l1(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The mean absolute difference of each pair of images: (n,), from 0 to 2."""
    a, b = _pair(a, b)
    return np.abs(a - b).mean((1, 2, 3))


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, 10 log10(4 / mean squared difference), at most `PSNR_CAP`: (n,).

    Equal images have an infinite ratio, and a mean with an infinite value is infinite. Hence the cap.
    """
    a, b = _pair(a, b)
    error = np.square(a - b).mean((1, 2, 3))
    return 10.0 * np.log10(4.0 / np.maximum(error, 4.0 / 10.0 ** (PSNR_CAP / 10.0)))


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity (Wang et al. 2004), the mean over channels and pixels: (n,), 1 for equal images.

    The window is a Gaussian of 11 x 11 pixels with standard deviation 1.5. The mean is over all positions at which it
    lies inside the image: 22 x 22 positions in an image of 32 pixels. If a side is shorter than 11 pixels, the window
    is the largest odd one that fits.

    **Raises:** `ValueError` if dm-pix (extra `metrics`) is not installed.
    """
    try:
        import dm_pix
    except ImportError:
        raise ValueError("structural similarity needs dm-pix: pip install 'sdejax[metrics]'") from None
    import jax.numpy as jnp

    a, b = _pair(a, b)
    # If the window is larger than the image, dm-pix raises no error, but swaps the two.
    shortest = min(_WINDOW, *a.shape[1:3])
    window = shortest - 1 + shortest % 2
    unit_a, unit_b = (jnp.asarray(0.5 * image + 0.5, jnp.float32) for image in (a, b))
    similarity = dm_pix.ssim(unit_a, unit_b, max_val=1.0, filter_size=window, filter_sigma=_WINDOW_STD)
    return np.asarray(similarity, np.float64)


def kept_pixels(source: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Whether the truth equals the source within `SAME` in every channel: (n, h, w), bool."""
    source, truth = _pair(source, truth)
    # The threshold is slightly larger, because levels are rounded to float32.
    return np.abs(source - truth).max(-1) <= SAME + 1e-6


@dataclasses.dataclass(frozen=True)
class Masked:
    """Scores `values` (n,), some of which do not exist: if `exists` (n,) is False, the value has no meaning."""

    values: np.ndarray
    exists: np.ndarray


def preservation(result: np.ndarray, source: np.ndarray, kept: np.ndarray) -> Masked:
    """The mean absolute difference to the source over the pixels `kept` (n, h, w), if there are any."""
    result, source = _pair(result, source)
    if kept.shape != result.shape[:3]:
        raise ValueError(f"kept shape={kept.shape}: must be {result.shape[:3]}, a value per pixel")
    count = kept.sum((1, 2))
    total = np.where(kept, np.abs(result - source).mean(-1), 0.0).sum((1, 2))
    return Masked(total / np.maximum(count, 1), count > 0)


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The possible results of an edit, for `nearest_is`; equal images count as one.

    `flat` (m, h w c) are the images less their `mean`, and `squares` (m,) are the squared norms of `flat`.
    """

    flat: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray) -> "Candidates":
        """From images (m, h, w, c)."""
        flat = np.clip(images.reshape(len(images), -1), -1.0, 1.0).astype(np.float64)
        # Subtracting the mean keeps the expanded square in `nearest_is` accurate.
        mean = flat.mean(0)
        return cls(flat - mean, mean, np.square(flat - mean).sum(1))

    def nearest_is(self, result: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Whether no candidate is nearer to the result (n, h, w, c), in mean square, than the truth: (n,), bool."""
        result, truth = _pair(result, truth)
        centred = result.reshape(len(result), -1) - self.mean
        squared = np.square(centred).sum(1)[:, None] - 2.0 * centred @ self.flat.T + self.squares
        to_truth = np.square(result - truth).sum((1, 2, 3))
        return to_truth <= squared.min(1) + 1e-6


def bootstrap_interval(
    values: np.ndarray, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """A bootstrap interval for the mean of the distribution of `values` (n,): percentiles of means of resampled values.

    **Raises:** `ValueError` if there are no values, or if one is not finite.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"values of shape {values.shape}: must be (n,), at least one, and all finite")
    drawn = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(values[drawn].mean(1), [tail, 100.0 - tail])
    return float(low), float(high)


def check_finite(metric: str, values: np.ndarray, names: list[str]) -> None:
    """**Raises:** `ValueError` that names the first edit whose value is NaN or infinite."""
    for name, value in zip(names, values, strict=True):
        if not np.isfinite(value):
            raise ValueError(f"edit={name!r}: its {metric} is {value}; the model is broken, or a setting is extreme")


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 in [-1, 1]; NaN stays NaN.

    **Raises:** `ValueError` if they are not (n, h, w, c) of the same shape.
    """
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f"images of shapes {a.shape} and {b.shape}: must be (n, h, w, c) and equal")
    return np.clip(a.astype(np.float64), -1.0, 1.0), np.clip(b.astype(np.float64), -1.0, 1.0)
