"""Group normalisation (Wu and He 2018) in one pass over the image.

`group_norm` is the plain formula; in that form it takes XLA five times as long on a CPU. `group_norm_by_products` folds
the statistics into one scale and one shift per channel, so that the image is read once for its sums and once to be
normalised. Two details make this fast:

- The sums over the channels of a group, and the copies of a group's mean to its channels, are products with a matrix.
  XLA would fuse anything simpler into the pass over the image and compute it again at each pixel.
- With swish behind the norm, only x is kept for the gradient. The rest is computed again, in the same pass.

Everything is computed in float32, whatever the dtype of x.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from sdejax.nn.kernels.swish import swish_by_tanh


def group_norm(
    x: Float[Array, "b h w c"], scale: Float[Array, " c"], bias: Float[Array, " c"], groups: int, epsilon: float
) -> Float32[Array, "b h w c"]:
    """The plain formula: subtract the mean of each image's group of channels, divide by the standard deviation."""
    b, h, w, c = x.shape
    grouped = x.astype(jnp.float32).reshape(b, h, w, groups, c // groups)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    variance = grouped.var((1, 2, 4), keepdims=True)
    unit = (grouped - mean) / jnp.sqrt(variance + epsilon)
    return unit.reshape(x.shape) * scale + bias


def group_norm_by_products(
    x: Float[Array, "b h w c"], scale: Float[Array, " c"], bias: Float[Array, " c"], groups: int, epsilon: float
) -> Float32[Array, "b h w c"]:
    """`group_norm`, as one scale and one shift of each channel of each image."""
    return _affine(x, *_scale_and_shift(x, scale, bias, groups, epsilon))


def group_norm_swish_by_products(
    x: Float[Array, "b h w c"], scale: Float[Array, " c"], bias: Float[Array, " c"], groups: int, epsilon: float
) -> Float32[Array, "b h w c"]:
    """swish(`group_norm`), with only x kept for the gradient."""
    return jax.checkpoint(_affine_swish)(x, *_scale_and_shift(x, scale, bias, groups, epsilon))


def _scale_and_shift(
    x: Float[Array, "b h w c"], scale: Float[Array, " c"], bias: Float[Array, " c"], groups: int, epsilon: float
) -> tuple[Float32[Array, "b c"], Float32[Array, "b c"]]:
    """The scale and the shift of each channel that normalise its group, then apply `scale` and `bias`."""
    _, h, w, c = x.shape
    x = x.astype(jnp.float32)
    member = jnp.repeat(jnp.eye(groups), c // groups, axis=0)
    count = h * w * (c // groups)
    mean, square = _pair(x.sum((1, 2)), jnp.square(x).sum((1, 2)), member / count)
    variance = jnp.maximum(square - jnp.square(mean), 0.0)  # may round below 0
    rate, mean = _pair(jax.lax.rsqrt(variance + epsilon), mean, member.T)
    scale = rate * scale
    return scale, bias - mean * scale


def _pair(
    x: Float[Array, "b i"], y: Float[Array, "b i"], factor: Float[Array, "i o"]
) -> tuple[Float[Array, "b o"], Float[Array, "b o"]]:
    """x @ factor and y @ factor as one product, with float32 factors on every platform.

    x and y are stacked along an axis of their own. Joined along the axis of the images, which training spreads over
    devices, rows would change devices at every norm.
    """
    both = jnp.matmul(jnp.stack([x, y]), factor, precision=jax.lax.Precision.HIGHEST)
    return both[0], both[1]


def _affine(
    x: Float[Array, "b h w c"], scale: Float[Array, "b c"], shift: Float[Array, "b c"]
) -> Float32[Array, "b h w c"]:
    """scale x + shift, in float32."""
    return x.astype(jnp.float32) * scale[:, None, None] + shift[:, None, None]


def _affine_swish(
    x: Float[Array, "b h w c"], scale: Float[Array, "b c"], shift: Float[Array, "b c"]
) -> Float32[Array, "b h w c"]:
    return swish_by_tanh(_affine(x, scale, shift))
