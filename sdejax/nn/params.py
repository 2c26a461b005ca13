"""Parameters by readable names, such as down.32x32.block0.conv0.kernel."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx


def to_names(params: Any) -> dict[str, Any]:
    """Every parameter by its name."""
    return {_name(path): leaf[...] for path, leaf in nnx.to_flat_state(params)}


def shapes(abstract: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by its name. `abstract` may have shapes in place of the parameters."""
    return {_name(path): leaf.shape for path, leaf in nnx.to_flat_state(abstract)}


def from_names(abstract: Any, arrays: Mapping[str, np.ndarray | jax.Array]) -> Any:
    """The inverse of `to_names`, for parameters with the structure and dtypes of `abstract`.

    The arrays are copied to the default device once; every call of a network would copy numpy arrays again.

    **Raises:** `ValueError` if a parameter is missing, has another shape, or is not one of the structure.
    """
    flat = nnx.to_flat_state(abstract)
    names = [_name(path) for path, _ in flat]
    if missing := sorted(set(names) - set(arrays)):
        raise ValueError(f"lacks {len(missing)} parameters of the architecture, first {missing[0]!r}")
    if extra := sorted(set(arrays) - set(names)):
        raise ValueError(f"has {len(extra)} parameters that the architecture lacks, first {extra[0]!r}")
    values = []
    for (_, leaf), name in zip(flat, names, strict=True):
        value = arrays[name]
        if value.shape != leaf.shape:
            raise ValueError(f"parameter {name!r} has shape {value.shape}, the architecture wants {leaf.shape}")
        values.append(np.asarray(value, leaf.dtype))  # by numpy: jax would compile a program for each shape
    placed = jax.device_put(values)
    return nnx.from_flat_state([(path, leaf.replace(value)) for (path, leaf), value in zip(flat, placed, strict=True)])


def _name(path: Any) -> str:
    return ".".join(str(key) for key in path)
