"""The exponential solver."""

import dataclasses
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # half a second to import, which a program that is compiled already need not wait for
    pass


@dataclasses.dataclass(frozen=True)
class Exponential:
    """The exponential solver of eq. 9, of order 1 or 2 in the denoiser."""

    order: Literal[1, 2] = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise ValueError(f"order={self.order}: must be 1 or 2")
