"""Where a parameter of ours is found in another layout, and how its axes are turned.

Others keep convolutions as (outputs, inputs, height, width) and linear layers as (outputs, inputs); ours are
(height, width, inputs, outputs) and (inputs, outputs).
"""

import dataclasses
from collections.abc import Iterable
from typing import Literal

import numpy as np

Kind = Literal["conv", "conv1x1", "dense", "norm", "vector", "table"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One module of ours and the same one of theirs: `ours` and `theirs` are name prefixes, or names for a vector."""

    ours: str
    theirs: str
    kind: Kind

    def parameters(self) -> list[tuple[str, str]]:
        """The names of the module's parameters: (ours, theirs)."""
        if self.kind in ("vector", "table"):
            return [(self.ours, self.theirs)]
        weight = "scale" if self.kind == "norm" else "kernel"
        return [(f"{self.ours}.{weight}", f"{self.theirs}.weight"), (f"{self.ours}.bias", f"{self.theirs}.bias")]

    def to_theirs(self, value: np.ndarray) -> np.ndarray:
        """The inverse of `with_our_axes`, for this module."""
        if value.ndim == 4:
            return value.transpose(3, 2, 0, 1)
        if value.ndim == 2 and self.kind != "table":
            return value.T[:, :, None, None] if self.kind == "conv1x1" else value.T
        return value


def with_our_axes(value: np.ndarray) -> np.ndarray:
    """A weight or bias of theirs with its axes turned; a convolution's 1 x 1 window goes."""
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)[(0, 0) if value.shape[2:] == (1, 1) else ...]
    return value.T


def to_ours(entries: Iterable[Entry], theirs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Their arrays by our names.

    **Raises:** `ValueError`, naming the first, where arrays are missing or too many.
    """
    names = [(entry, *pair) for entry in entries for pair in entry.parameters()]
    wanted = {their for _, _, their in names}
    if missing := sorted(wanted - set(theirs)):
        raise ValueError(f"lacks {len(missing)} weights of the architecture, first {missing[0]!r}")
    if extra := sorted(set(theirs) - wanted):
        raise ValueError(f"has {len(extra)} weights not of the architecture, first {extra[0]!r}")
    return {
        our: theirs[their] if entry.kind == "table" else with_our_axes(theirs[their]) for entry, our, their in names
    }


def to_theirs(entries: Iterable[Entry], ours: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our arrays by their names: the inverse of `to_ours`."""
    return {
        their: np.ascontiguousarray(entry.to_theirs(ours[our]))
        for entry in entries
        for our, their in entry.parameters()
    }
