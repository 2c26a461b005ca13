"""Images spread over devices: every device runs the same program on its own images, without any communication.

`jax.shard_map` over the image axis; a plain `jit` on a sharded batch lets the partitioner gather it. (`jax.pmap` is a
legacy wrapper over the same thing.) Training does communicate: its mesh is below.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sdejax.pytrees import PerImage


def image_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with one axis, "image", over `devices` (all of them by default); `ValueError` for none."""
    if devices is not None and not len(devices):
        raise ValueError("devices=[]: must be at least one, such as jax.local_devices()")
    return Mesh(np.asarray(jax.devices() if devices is None else devices), ("image",))


def spread(array: jax.Array | np.ndarray, mesh: Mesh) -> jax.Array:
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
    """function(shared, *batched); if there is a `layout` (see `mesh_of`), each device computes its own images.

    Leaves of `batched`, and leaves of `shared` that are marked `PerImage`, are split along their leading axis. Every
    device has the other leaves of `shared`. The function must treat images independently.
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


# Training: a mesh of two axes. Images are spread over both; parameters, moving averages and the optimiser's state over
# "fsdp" alone, if they are large enough to be worth gathering.

_LARGE = 2**14  # arrays of at least so many numbers are spread


def train_mesh(fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axes "data" and "fsdp" over `devices` (all of them by default).

    **Raises:** `ValueError` if the number of devices is no multiple of `fsdp`.
    """
    devices = list(devices or jax.devices())
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(f"fsdp={fsdp}: must divide the number of devices, {len(devices)}")
    return Mesh(np.asarray(devices).reshape(-1, fsdp), ("data", "fsdp"))


def images_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis over the whole training mesh."""
    return NamedSharding(mesh, P(mesh.axis_names))


def state_sharding(mesh: Mesh, shape: Sequence[int]) -> NamedSharding:
    """Where an array of this shape of the training state lies: its longest axis that can be split is, over "fsdp"."""
    parts = mesh.shape["fsdp"]
    axes = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or math.prod(shape) < _LARGE or not axes:
        return NamedSharding(mesh, P())
    longest = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(mesh, P(*(None,) * longest, "fsdp"))


def state_shardings(tree: Any, mesh: Mesh) -> Any:
    """`state_sharding` of each array of a tree."""
    return jax.tree.map(lambda leaf: state_sharding(mesh, leaf.shape), tree)


def constrain_images(tree: Any, mesh: Mesh | None) -> Any:
    """Inside a jitted function: keep the leading axes spread over the mesh."""
    if mesh is None or mesh.size == 1:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, images_sharding(mesh)), tree)


def constrain_state(tree: Any, mesh: Mesh | None) -> Any:
    """Inside a jitted function: keep a state, or a gradient, on the devices that `state_sharding` says."""
    if mesh is None or mesh.size == 1:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, state_sharding(mesh, leaf.shape)), tree)


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """Inside a jitted function: gather a state to every device."""
    if mesh is None or mesh.size == 1:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, P())), tree)


def place(tree: Any, shardings: Any) -> Any:
    """Arrays that every process holds whole, as global arrays: each process gives its devices their parts."""

    def one(leaf: Any, sharding: NamedSharding) -> jax.Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(one, tree, shardings)


def join(rows: np.ndarray, mesh: Mesh) -> jax.Array:
    """The rows of a batch that this process has, joined with those of the others: spread over the mesh."""
    return jax.make_array_from_process_local_data(images_sharding(mesh), rows)


def fetch(tree: Any, mesh: Mesh) -> Any:
    """Global arrays as numpy arrays, whole, on every process."""
    return jax.tree.map(np.asarray, _gather(tree, mesh))


def everyone(rows: Any, mesh: Mesh) -> Any:
    """The rows of every process, joined, on every process; does not wait for them. As they are on one process."""
    if jax.process_count() == 1:
        return rows
    return _gather(jax.tree.map(lambda leaf: join(leaf, mesh), rows), mesh)


@functools.partial(jax.jit, static_argnames=("mesh",))
def _gather(rows: Any, mesh: Mesh) -> Any:
    return replicate(rows, mesh)
