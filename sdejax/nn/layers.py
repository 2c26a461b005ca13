"""The layers of the score network: NHWC, parameters in float32, computation in a chosen dtype.

The statistics of norms and the softmaxes are always accumulated in float32.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from sdejax.nn.conv import conv2d
from sdejax.nn.initialise import default_init, zero_init
from sdejax.nn.kernels.group_norm import group_norm_by_products, group_norm_swish_by_products
from sdejax.nn.kernels.row_padding import product_of_rows
from sdejax.nn.kernels.swish import swish_by_tanh


class Dense(nnx.Module):
    """A linear layer over the last axis. With `zero` it starts at 0, so that a residual branch adds nothing at first.

    All other axes are joined to one for the product of matrices. Otherwise XLA's CPU backend would copy the images,
    transposed, for the gradient of the kernel.
    """

    def __init__(self, inputs: int, outputs: int, dtype: DTypeLike, rngs: nnx.Rngs, *, zero: bool = False):
        self.dtype = dtype
        self.kernel = nnx.Param((zero_init if zero else default_init)(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros((outputs,)))

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """The product of x with the kernel, plus the bias."""
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        rows = x.astype(self.dtype).reshape(-1, x.shape[-1])
        products = product_of_rows(jnp.matmul, rows, kernel, 1)
        return (products + bias).reshape(*x.shape[:-1], -1)


class Conv(nnx.Module):
    """A convolution of NHWC images with a size x size kernel, HWIO. With `zero` it starts at 0.

    `padding` is the number of zero pixels (before, after) each axis; by default height and width stay the same.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        *,
        stride: int = 1,
        padding: tuple[int, int] | None = None,
        zero: bool = False,
    ):
        self.stride = stride
        self.padding = padding or ((size - 1) // 2, size // 2)
        self.dtype = dtype
        self.kernel = nnx.Param((zero_init if zero else default_init)(rngs.params(), (size, size, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros((outputs,)))

    def __call__(self, x: Float[Array, "b h w inputs"]) -> Float[Array, "b h2 w2 outputs"]:
        """The convolution of x with the kernel, plus the bias."""
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        return conv2d(x.astype(self.dtype), kernel, self.stride, self.padding) + bias


def swish(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x sigmoid(x)."""
    return swish_by_tanh(x)


class GroupNorm(nnx.Module):
    """Group normalisation (Wu and He 2018): each group of channels of an image gets mean 0 and variance 1.

    A scale and a bias for each channel follow. Statistics are in float32.
    """

    def __init__(self, channels: int, dtype: DTypeLike, *, groups: int | None = None, epsilon: float = 1e-6):
        # Song et al. take min(channels // 4, 32) groups; other widths take the nearest smaller divisor.
        self.groups = groups or max(n for n in range(1, min(channels // 4, 32) + 1) if channels % n == 0)
        self.epsilon = epsilon
        self.dtype = dtype
        self.scale = nnx.Param(jnp.ones((channels,)))
        self.bias = nnx.Param(jnp.zeros((channels,)))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """(x - mean) / sqrt(variance + epsilon) scale + bias."""
        norm = group_norm_by_products(x, self.scale[...], self.bias[...], self.groups, self.epsilon)
        return norm.astype(self.dtype)

    def swished(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """swish of the norm. Only x is kept for the gradient; everything else is computed again."""
        norm = group_norm_swish_by_products(x, self.scale[...], self.bias[...], self.groups, self.epsilon)
        return norm.astype(self.dtype)


def dropout(x: Float[Array, "..."], rate: float, key: PRNGKeyArray | None) -> Float[Array, "..."]:
    """Zero a share `rate` of x and scale up the rest. Without a key (evaluation) x stays as it is."""
    if key is None or rate == 0.0:
        return x
    kept = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros((), x.dtype))
