"""The balance of realism and faithfulness (Meng et al. 2022, section 3): the strength that a wish asks for.

More strength is more realistic, less is more faithful. Both are nearly monotone in it, so that halving the strengths
in between finds the one where a wish begins or ends to hold.
"""

from collections.abc import Callable

import numpy as np

_HALVINGS = 10


class WishNotGranted(ValueError):
    """No strength grants the wish with this noise; another seed may."""


def largest_strength(
    edit: Callable[[float], np.ndarray], guide: np.ndarray, distance: float, halvings: int = _HALVINGS
) -> tuple[float, np.ndarray]:
    """The largest strength whose result stays within `distance` of the guide, and that result.

    **Arguments:**

    - `edit`: strength in (0, 1] -> the result (*shape); the same noise each time, and one compiled program.
    - `guide`: (*shape), in [-1, 1]; what the results are compared with.
    - `distance`: the root mean squared difference per value, above 0; 0.1 is 13 of 255 shades.
    - `halvings`: the strength is found to 2^-halvings.

    **Raises:** `ValueError` where `distance` is not above 0 or a result is not finite; `WishNotGranted` where even the
    smallest strength leads further than that.
    """
    if not distance > 0.0:
        raise ValueError(f"keep-distance={distance}: must be above 0, a root mean squared difference in [-1, 1]")

    def near(result: np.ndarray) -> bool:
        return float(np.sqrt(np.mean(np.square(result - guide)))) <= distance

    result = _tried(edit, 1.0)
    if near(result):
        return 1.0, result
    low, high = 2.0**-halvings, 1.0
    result = _tried(edit, low)
    if not near(result):
        raise WishNotGranted(f"keep-distance={distance}: even a strength of {low:g} leads further from the guide")
    while high - low > 2.0**-halvings:
        middle = 0.5 * (low + high)
        tried = _tried(edit, middle)
        if near(tried):
            low, result = middle, tried
        else:
            high = middle
    return low, result


def smallest_strength(
    edit: Callable[[float], np.ndarray],
    realism: Callable[[np.ndarray], float],
    least: float,
    halvings: int = _HALVINGS,
) -> tuple[float, np.ndarray]:
    """The smallest strength whose result is as realistic as asked, and that result.

    **Arguments:** as in `largest_strength`, and `realism`, of a result, in [0, 1]
    (`sdejax.density.realism`), which must be at least `least`, in (0, 1).

    **Raises:** `ValueError` where `least` is outside its range or a result is not finite; `WishNotGranted` where
    strength 1 is not as realistic either.
    """
    check_realism(least)
    low, high = 0.0, 1.0
    result = _tried(edit, high)
    if realism(result) < least:
        raise WishNotGranted(
            f"realism={least}: at strength 1 it is {realism(result):.2f}; ask for less, or take more seeds"
        )
    while high - low > 2.0**-halvings:
        middle = 0.5 * (low + high)
        tried = _tried(edit, middle)
        if realism(tried) >= least:
            high, result = middle, tried
        else:
            low = middle
    return high, result


def _tried(edit: Callable[[float], np.ndarray], strength: float) -> np.ndarray:
    """The result at a strength: one with NaN would compare as far from everything, or as near."""
    result = np.asarray(edit(strength))
    if not np.isfinite(result).all():
        raise ValueError(f"strength={strength:g}: a value of the result is NaN or infinite")
    return result


def check_realism(least: float) -> None:
    """**Raises:** `ValueError` unless it is in (0, 1)."""
    if not 0.0 < least < 1.0:
        raise ValueError(f"realism={least}: must be in (0, 1), the share of the model's samples that are less typical")
