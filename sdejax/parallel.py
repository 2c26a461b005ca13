"""Images spread over devices: every device runs the same program on its own images, without any communication.

`jax.shard_map` over the image axis; a plain `jit` on a sharded batch lets the partitioner gather it. (`jax.pmap` is a
legacy wrapper over the same thing.)
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sdejax.denoiser import PerImage


def image_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with one axis, "image", over `devices` (all of them by default)."""
    return Mesh(np.asarray(devices or jax.devices()), ("image",))


def spread(array: jax.Array, mesh: Mesh) -> jax.Array:
    """Split an array's leading axis, which the mesh's size must divide, over the mesh's first axis."""
    return jax.device_put(array, NamedSharding(mesh, P(mesh.axis_names[0])))


def mesh_of(array: Any) -> tuple[Mesh, Any] | None:
    """The mesh, and the axis or axes of it, that the leading axis of `array` is spread over; None on one device."""
    if isinstance(array, Tracer):
        return None
    sharding = getattr(array, "sharding", None)
    if not isinstance(sharding, NamedSharding) or not isinstance(sharding.mesh, Mesh):
        return None
    axis = sharding.spec[0] if len(sharding.spec) else None
    return (sharding.mesh, axis) if axis is not None and sharding.mesh.size > 1 else None


def over_images(
    function: Callable[..., jax.Array], layout: tuple[Mesh, Any] | None, shared: Any, batched: tuple[Any, ...]
) -> jax.Array:
    """function(shared, *batched), each device on its own images where there is a `layout` (see `mesh_of`).

    Leaves of `batched`, and those of `shared` marked `PerImage`, are split along their leading axis; the other leaves
    of `shared` are on every device. The function must treat images independently.
    """
    if layout is None:
        return function(shared, *batched)
    mesh, axis = layout
    specs = jax.tree.map(
        lambda leaf: PerImage(P(axis)) if isinstance(leaf, PerImage) else P(),  # pyright: ignore[reportArgumentType]
        shared,
        is_leaf=lambda leaf: isinstance(leaf, PerImage),
    )
    per_image = tuple(jax.tree.map(lambda _: P(axis), argument) for argument in batched)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=(specs, *per_image), out_specs=P(axis), check_vma=False)
    return mapped(shared, *batched)
