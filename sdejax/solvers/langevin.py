"""The Langevin corrector."""

import dataclasses
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # half a second to import, which a program that is compiled already need not wait for
    pass


@dataclasses.dataclass(frozen=True)
class Langevin:
    """The corrector of Song et al. 2021 (algorithms 4 and 5): steps of Langevin dynamics at each time, before the step.

    Their step size 2 alpha (snr |noise| / |score|)^2, alpha 1 for VE, is 2 snr^2 sigma^2 here: what it is where the
    noise has the norm of sigma times the score. So a step is linear in the state, and images do not depend on each
    other. As eq. 9 it is exact where D is constant:

        x' = c x + (1 - c) alpha D + sigma sqrt(1 - c^2) xi,   c = exp(-2 snr^2)

    The paper's `snr` are 0.16 for VE and 0.01 to 0.2 for VP, with 1 step.
    """

    snr: float = 0.16
    steps: int = 1

    def __post_init__(self) -> None:
        if not 0.0 < self.snr < math.inf:
            raise ValueError(f"snr={self.snr}: must be above 0 and finite")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"corrector steps={self.steps}: must be a whole number of at least 1")
