"""Finding the strength of an edit, seed by seed: `--keep-distance` and `--realism`."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from sdejax.denoiser.protocol import Denoiser
from sdejax.density.realism import calibrate, denoising_errors
from sdejax.edit.strength import GoalNotMet, check_realism, largest_strength, smallest_strength
from sdejax.jobs.progress import print_error
from sdejax.noise.keys import keys
from sdejax.sde.base import SDE
from sdejax.solvers.sampler import Sampler

_SAMPLES = range(2**31, 2**31 + 64)  # seeds of the model's own samples; an edit is unlikely to have one of them


class StrengthGoal(Protocol):
    """What the result of an edit should be like."""

    def find(self, edit: Callable[[float], np.ndarray], seed: int) -> tuple[float, str]:
        """The strength at which edit(strength), with the noise of `seed`, meets the goal, and how well, in words.

        **Raises:** `GoalNotMet` if no strength meets it.
        """
        ...


class KeepDistance:
    """The largest strength whose result stays within a root mean squared `distance` of the `guide` (h, w, c)."""

    def __init__(self, guide: np.ndarray, distance: float):
        self._guide, self._distance = guide, distance

    def find(self, edit: Callable[[float], np.ndarray], seed: int) -> tuple[float, str]:
        """See `StrengthGoal`. The seed plays no part."""
        del seed
        strength, result = largest_strength(edit, self._guide, self._distance)
        return strength, f"distance {float(np.sqrt(np.mean(np.square(result - self._guide)))):.3f}"


class ReachRealism:
    """The smallest strength whose result is at least so realistic, among 64 samples of the model.

    **Raises:** `ValueError` unless `realism` is in (0, 1).
    """

    def __init__(self, denoiser: Denoiser, sde: SDE, shape: tuple[int, int, int], sampler: Sampler, realism: float):
        check_realism(realism)
        self._denoiser, self._sde, self._least = denoiser, sde, realism
        self._realism = calibrate(denoiser, sde, keys(_SAMPLES), shape, sampler=sampler)

    def find(self, edit: Callable[[float], np.ndarray], seed: int) -> tuple[float, str]:
        """See `StrengthGoal`. The seed is that of the noises by which the realism is measured."""

        def realism(result: np.ndarray) -> float:
            errors = denoising_errors(self._denoiser, self._sde, result[None], keys([seed]))
            return float(self._realism(np.asarray(errors))[0])

        strength, result = smallest_strength(edit, realism, self._least)
        return strength, f"realism {realism(result):.2f}"


def find_strengths(
    goal: StrengthGoal, edit: Callable[[int, float], np.ndarray], seeds: Sequence[int]
) -> dict[int, float]:
    """The strength that meets the goal for each seed. Prints it, or the reason if no strength meets the goal.

    **Arguments:**

    - `edit`: (seed, strength) -> the edited image (h, w, c). About ten edits for each seed.

    **Raises:** `GoalNotMet` if no seed has such a strength.
    """
    found: dict[int, float] = {}
    refused = GoalNotMet()
    for seed in seeds:
        try:
            found[seed], words = goal.find(lambda strength, seed=seed: edit(seed, strength), seed)
            message = f"seed {seed}: strength {found[seed]:.3f}, {words}"
        except GoalNotMet as error:
            refused, message = error, f"error: seed {seed}: {error}"
        if len(seeds) > 1 or found:
            print_error(message)
    if not found:
        raise refused
    return found
