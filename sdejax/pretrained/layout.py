"""Names and axes of parameters in the files of other libraries, and the image size that such files do not state.

PyTorch libraries keep convolutions as (outputs, inputs, height, width) and linear layers as (outputs, inputs). This
library keeps them as (height, width, inputs, outputs) and (inputs, outputs).
"""

import dataclasses
from collections.abc import Iterable
from typing import Literal

import numpy as np

Kind = Literal["conv", "conv1x1", "dense", "norm", "vector", "table"]


@dataclasses.dataclass(frozen=True)
class LayerNames:
    """The two names of one layer: `ours` and `theirs`.

    A name is the prefix of the names of the layer's parameters. For the kind "vector" it is the parameter's own name.
    """

    ours: str
    theirs: str
    kind: Kind

    def parameters(self) -> list[tuple[str, str]]:
        """The names (ours, theirs) of the layer's parameters."""
        if self.kind in ("vector", "table"):
            return [(self.ours, self.theirs)]
        weight = "scale" if self.kind == "norm" else "kernel"
        return [(f"{self.ours}.{weight}", f"{self.theirs}.weight"), (f"{self.ours}.bias", f"{self.theirs}.bias")]

    def to_theirs(self, value: np.ndarray) -> np.ndarray:
        """Bring an array of this layer to their order of axes: the inverse of `with_our_axes`."""
        if value.ndim == 4:
            return value.transpose(3, 2, 0, 1)
        if value.ndim == 2 and self.kind != "table":
            return value.T[:, :, None, None] if self.kind == "conv1x1" else value.T
        return value


def with_our_axes(value: np.ndarray) -> np.ndarray:
    """Bring one of their arrays to our order of axes; a convolution of 1 x 1 becomes a linear layer."""
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)[(0, 0) if value.shape[2:] == (1, 1) else ...]
    return value.T


def to_ours(layers: Iterable[LayerNames], theirs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename their arrays to our names, with our order of axes.

    **Raises:** `ValueError` that names the first array that is missing, or that belongs to no layer.
    """
    names = [(layer.kind, *pair) for layer in layers for pair in layer.parameters()]
    wanted = {their for _, _, their in names}
    if missing := sorted(wanted - set(theirs)):
        raise ValueError(f"lacks {len(missing)} weights of the architecture, first {missing[0]!r}")
    if extra := sorted(set(theirs) - wanted):
        raise ValueError(f"has {len(extra)} weights not of the architecture, first {extra[0]!r}")
    return {our: theirs[their] if kind == "table" else with_our_axes(theirs[their]) for kind, our, their in names}


def to_theirs(layers: Iterable[LayerNames], ours: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename our arrays to their names, with their order of axes: the inverse of `to_ours`."""
    return {
        their: np.ascontiguousarray(layer.to_theirs(ours[our])) for layer in layers for our, their in layer.parameters()
    }


def image_side(size: int | None, attention_levels: list[int], levels: int) -> int:
    """The side of the images that a network was trained on.

    **Arguments:**

    - `size`: the side, or None to deduce it. The publications put attention at a resolution of 16 pixels. So if one
      level has attention, the side follows from it.
    - `attention_levels`: the numbers of the levels with attention; 0 is the finest level.
    - `levels`: the number of levels.

    **Raises:** `ValueError` if `size` is needed and None, or if `size` cannot be halved for every level.
    """
    if size is None:
        if len(attention_levels) != 1:
            raise ValueError(
                f"size=None: must be given for a network with attention at {len(attention_levels)} levels, not 1"
            )
        return 16 << attention_levels[0]
    coarsest = 1 << (levels - 1)
    if size < 1 or size % coarsest:
        raise ValueError(f"size={size}: must be a multiple of {coarsest}, as the network has {levels} levels")
    return size
