"""What the editors ask of their arguments, and arrays that compile and await nothing."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

Array = jax.Array | np.ndarray


def array_of(value: ArrayLike, dtype: DTypeLike | None = None) -> Array:
    """An array of that type. A jax array stays one; anything else becomes numpy's, so that nothing is compiled."""
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype) if dtype is None else dtype)


def for_each_key(array: Array, shape: tuple[int, ...], keys: jax.Array) -> Array:
    """An image or a mask, broadcast to one of that shape for each key, on the devices of the keys."""
    full = (keys.shape[0], *shape)
    if isinstance(array, jax.Array):
        return jnp.broadcast_to(array, full)
    array = np.broadcast_to(array, full)
    return array if isinstance(keys, Tracer) or not keys.committed else jax.device_put(array, keys.sharding)


def check_image(image: ArrayLike, keys: jax.Array) -> Array:
    """**Raises:** `ValueError` unless `image` is floating point and one for each key, or one for all of them."""
    image = array_of(image)
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(
            f"image dtype={image.dtype}: must be floating point, in [-1, 1] (sdejax.media.images.to_array)"
        )
    if image.ndim < 2 or image.shape[0] not in (1, keys.shape[0]):
        raise ValueError(
            f"image shape={image.shape}: must be (b, *shape) with b = 1 or the number of keys, {keys.shape[0]}"
        )
    return image


def check_strength(strength: ArrayLike) -> None:
    """**Raises:** `ValueError` unless `strength` is one number in (0, 1]."""
    if isinstance(strength, Tracer):
        return
    if np.ndim(strength) != 0 or not 0.0 < float(np.asarray(strength)) <= 1.0:
        raise ValueError(f"strength={strength}: must be one number in (0, 1], the time that the edit starts from")


def check_share(name: str, value: ArrayLike) -> None:
    """**Raises:** `ValueError` unless `value` is one number in [0, 1]."""
    if not isinstance(value, Tracer) and (np.ndim(value) or not 0.0 <= float(np.asarray(value)) <= 1.0):
        raise ValueError(f"{name}={value}: must be one number in [0, 1]")


def check_count(name: str, value: int) -> None:
    """**Raises:** `ValueError` unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}={value!r}: must be a whole number of at least 1")


def check_mask(mask: ArrayLike | None, image: Array) -> Array:
    """The mask lined up with the image: per value, or per pixel without the axis of channels.

    If the mask is jax's, its values are awaited, and with them everything that its device was given before.

    **Raises:** `ValueError` if it does not fit the image, or a value is outside [0, 1].
    """
    if mask is None:
        return np.ones((), image.dtype)
    mask = array_of(mask, image.dtype)
    if image.ndim > 2 and mask.shape in (image.shape[1:-1], image.shape[:-1], (1, *image.shape[1:-1])):
        mask = mask[..., None]
    try:
        fits = np.broadcast_shapes(mask.shape, image.shape)[1:] == image.shape[1:]
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"mask shape={mask.shape}: must be that of the image, {image.shape}, or broadcast to it")
    if not isinstance(mask, Tracer) and not bool(((mask >= 0.0) & (mask <= 1.0)).all()):
        raise ValueError("mask: every value must be in [0, 1], 0 keeps the pixel and 1 edits it fully")
    return mask
