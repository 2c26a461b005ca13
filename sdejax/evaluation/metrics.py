"""How near one image is to another: what edits are scored by.

Images are (n, h, w, c) in [-1, 1], clipped to it, each with its own score: (n,). Distances are in those units, in which
one of 255 levels is 1 / 127.5. A mean over nothing is no number: what has no value is told apart by a mask of its own,
and a score that is not finite is an error.
"""

import dataclasses
from typing import Any

import numpy as np

SAME = 4.0 / 127.5  # two values that differ by at most 4 of 255 levels are taken to be the same
PSNR_CAP = 60.0  # dB; rounding to 8 bits alone leaves 58.9
_WINDOW, _WINDOW_STD = 11, 1.5


def l1(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The mean absolute difference of each pair of images: (n,), from 0 to 2."""
    a, b = _pair(a, b)
    return np.abs(a - b).mean((1, 2, 3))


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, 10 log10(4 / mean squared difference), at most `PSNR_CAP`: (n,).

    Equal images would have an infinite ratio, and one of them an infinite mean, hence the cap.
    """
    a, b = _pair(a, b)
    error = np.square(a - b).mean((1, 2, 3))
    return 10.0 * np.log10(4.0 / np.maximum(error, 4.0 / 10.0 ** (PSNR_CAP / 10.0)))


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity (Wang et al. 2004), the mean over channels and pixels: (n,), 1 for equal images.

    A Gaussian window of 11 x 11 pixels with standard deviation 1.5, wherever it lies wholly within the image: 22 x 22
    places in an image of 32 pixels. Where a side is shorter than 11 the window is the largest odd one that fits.

    **Raises:** `ValueError` where dm-pix (extra `metrics`) is not installed.
    """
    try:
        import dm_pix
    except ImportError:
        raise ValueError("structural similarity needs dm-pix: pip install 'sdejax[metrics]'") from None
    import jax.numpy as jnp

    a, b = _pair(a, b)
    # dm-pix does not refuse a window larger than the image: it swaps the two.
    shortest = min(_WINDOW, *a.shape[1:3])
    window = shortest - 1 + shortest % 2
    half: list[Any] = [jnp.asarray(0.5 * image + 0.5, jnp.float32) for image in (a, b)]
    similar = dm_pix.ssim(half[0], half[1], max_val=1.0, filter_size=window, filter_sigma=_WINDOW_STD)
    return np.asarray(similar, np.float64)


def kept_pixels(source: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Where the truth is as the source was, in every channel within `SAME`: (n, h, w), bool."""
    source, truth = _pair(source, truth)
    # A hair above the threshold, because levels are rounded to float32.
    return np.abs(source - truth).max(-1) <= SAME + 1e-6


@dataclasses.dataclass(frozen=True)
class Masked:
    """Scores (n,), of which those that `there` (n,) denies do not exist; their values are 0 and mean nothing."""

    values: np.ndarray
    there: np.ndarray


def preservation(result: np.ndarray, source: np.ndarray, kept: np.ndarray) -> Masked:
    """The mean absolute difference to the source over the pixels `kept` (n, h, w); an image without any has none."""
    result, source = _pair(result, source)
    if kept.shape != result.shape[:3]:
        raise ValueError(f"kept shape={kept.shape}: must be {result.shape[:3]}, a value per pixel")
    count = kept.sum((1, 2))
    total = np.where(kept, np.abs(result - source).mean(-1), 0.0).sum((1, 2))
    return Masked(total / np.maximum(count, 1), count > 0)


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The images that an edit might have become, for `nearest_is`; equal images are one."""

    flat: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray) -> "Candidates":
        """From (m, h, w, c)."""
        flat = np.clip(images.reshape(len(images), -1), -1.0, 1.0).astype(np.float64)
        # Less their mean, the expanded square below loses no digits that matter.
        mean = flat.mean(0)
        return cls(flat - mean, mean, np.square(flat - mean).sum(1))

    def nearest_is(self, result: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Whether no candidate is nearer to the result (n, h, w, c), in mean square, than the truth is: (n,), bool."""
        result, truth = _pair(result, truth)
        centred = result.reshape(len(result), -1) - self.mean
        squared = np.square(centred).sum(1)[:, None] - 2.0 * centred @ self.flat.T + self.squares
        to_truth = np.square(result - truth).sum((1, 2, 3))
        return to_truth <= squared.min(1) + 1e-6


def bootstrap_interval(
    values: np.ndarray, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """An interval for the mean of what `values` (n,) are drawn from: percentiles of the means of resampled values.

    **Raises:** `ValueError` for no values, or one that is not finite.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"values of shape {values.shape}: must be (n,), at least one, and all finite")
    drawn = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(values[drawn].mean(1), [tail, 100.0 - tail])
    return float(low), float(high)


def check_finite(metric: str, values: np.ndarray, names: list[str]) -> None:
    """**Raises:** `ValueError` naming the first edit whose value is NaN or infinite."""
    for name, value in zip(names, values, strict=True):
        if not np.isfinite(value):
            raise ValueError(f"edit={name!r}: its {metric} is {value}; the model or its settings are broken")


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 in [-1, 1]; NaN stays NaN.

    **Raises:** `ValueError` unless they are (n, h, w, c) of one shape.
    """
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f"images of shapes {a.shape} and {b.shape}: must be (n, h, w, c) and equal")
    return np.clip(a.astype(np.float64), -1.0, 1.0), np.clip(b.astype(np.float64), -1.0, 1.0)
