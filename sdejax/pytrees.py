"""Dataclasses as pytrees: which fields are static, and which leaves belong to single images."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax

T = TypeVar("T")


STATIC = {"static": True}  # metadata of a dataclass field that is part of the program, not of the data


def pytree(cls: type[T]) -> type[T]:
    """Register a dataclass: fields with the metadata `STATIC` are static, the others are leaves."""
    return jax.tree_util.register_dataclass(cls)


@pytree
@dataclasses.dataclass(frozen=True)
class PerImage:
    """Marks a leaf of a denoiser whose leading axis is the batch (a prompt for each image, say).

    Leaves without the mark are the same for every image; a batch spread over devices splits only marked ones.
    """

    value: jax.Array


def split_per_image(tree: Any) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """The arrays of a pytree that are marked `PerImage`, and how to rebuild it with others in their places."""
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda leaf: isinstance(leaf, PerImage))
    marked = [leaf.value for leaf in leaves if isinstance(leaf, PerImage)]

    def rebuild(values: list[jax.Array]) -> Any:
        rest = iter(values)
        return structure.unflatten(PerImage(next(rest)) if isinstance(leaf, PerImage) else leaf for leaf in leaves)

    return marked, rebuild
