"""The strength for a goal: as realistic as possible at a given distance, or as faithful as possible at a given realism.

More strength is more realistic, less is more faithful (Meng et al. 2022, section 3). Both are nearly monotone in it, so
bisection finds the strength at which a goal begins or ends to be met.
"""

from collections.abc import Callable

import numpy as np

_HALVINGS = 10


class GoalNotMet(ValueError):
    """No strength meets the goal with this noise; another seed may."""


def largest_strength(
    edit: Callable[[float], np.ndarray], guide: np.ndarray, distance: float, halvings: int = _HALVINGS
) -> tuple[float, np.ndarray]:
    """Find the largest strength whose result stays within `distance` of the guide. Returns it and that result.

    **Arguments:**

    - `edit`: strength in (0, 1] -> the result (*shape); the same noise each time, and one compiled program.
    - `guide`: (*shape), in [-1, 1]; the results are compared with it.
    - `distance`: the root mean squared difference per value, above 0; 0.1 is 13 of 255 shades.
    - `halvings`: the strength is found to 2^-halvings.

    **Raises:** `ValueError` if `distance` is not above 0 or a result is not finite; `GoalNotMet` if even the smallest
    strength leads further than that.
    """
    if not distance > 0.0:
        raise ValueError(f"keep-distance={distance}: must be above 0, a root mean squared difference in [-1, 1]")

    def near(result: np.ndarray) -> bool:
        return float(np.sqrt(np.mean(np.square(result - guide)))) <= distance

    result = _finite(edit, 1.0)
    if near(result):
        return 1.0, result
    low, high = 2.0**-halvings, 1.0
    result = _finite(edit, low)
    if not near(result):
        raise GoalNotMet(f"keep-distance={distance}: even a strength of {low:g} leads further from the guide")
    while high - low > 2.0**-halvings:
        middle = 0.5 * (low + high)
        tried = _finite(edit, middle)
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
    """Find the smallest strength whose result is realistic enough. Returns it and that result.

    **Arguments:** as in `largest_strength`, and

    - `realism`: result -> its realism in [0, 1] (`sdejax.density.realism`).
    - `least`: the realism that is asked for, in (0, 1).

    **Raises:** `ValueError` if `least` is outside its range or a result is not finite; `GoalNotMet` if strength 1 is
    not realistic enough either.
    """
    check_realism(least)
    low, high = 0.0, 1.0
    result = _finite(edit, high)
    if realism(result) < least:
        raise GoalNotMet(
            f"realism={least}: at strength 1 it is {realism(result):.2f}; ask for less, or take more seeds"
        )
    while high - low > 2.0**-halvings:
        middle = 0.5 * (low + high)
        tried = _finite(edit, middle)
        if realism(tried) >= least:
            high, result = middle, tried
        else:
            low = middle
    return high, result


def _finite(edit: Callable[[float], np.ndarray], strength: float) -> np.ndarray:
    """The result at a strength. NaN would compare as far from everything, or as near."""
    result = np.asarray(edit(strength))
    if not np.isfinite(result).all():
        raise ValueError(f"strength={strength:g}: a value of the result is NaN or infinite")
    return result


def check_realism(least: float) -> None:
    """**Raises:** `ValueError` unless it is in (0, 1)."""
    if not 0.0 < least < 1.0:
        raise ValueError(f"realism={least}: must be in (0, 1), the share of the model's samples that are less typical")
