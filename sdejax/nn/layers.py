"""The layers of the score network: NHWC, parameters in float32, computation in a chosen dtype.

Normalisation statistics and softmaxes are always accumulated in float32.
"""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from sdejax.nn.batch_invariant import pad_rows
from sdejax.nn.conv import conv2d

# Song et al. 2021 initialise as DDPM does: uniform, scaled by the mean of fan-in and fan-out.
default_init = nnx.initializers.variance_scaling(1.0, "fan_avg", "uniform")


zero_init = nnx.initializers.zeros_init()


class _Keys:
    """A key for each parameter, counted in Python."""

    def __init__(self, key: jax.Array):
        self._key, self._count = key, 0

    def params(self) -> jax.Array:
        self._count += 1
        return jax.random.fold_in(self._key, self._count)


def parameter_keys(key: jax.Array) -> nnx.Rngs:
    """Stands in for `nnx.Rngs(params=key)` while a network is made inside a trace.

    `nnx.Rngs` counts in a traced variable, which takes time quadratic in the number of parameters.
    """
    return cast(nnx.Rngs, _Keys(key))


class Dense(nnx.Module):
    """A linear layer over the last axis; `zero` starts it at nothing, so that a residual branch starts as the identity.

    All other axes are one to the product of matrices: XLA's CPU backend would copy the images transposed for the
    gradient of the kernel otherwise.
    """

    def __init__(self, inputs: int, outputs: int, dtype: DTypeLike, rngs: nnx.Rngs, *, zero: bool = False):
        self.dtype = dtype
        self.kernel = nnx.Param((zero_init if zero else default_init)(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros((outputs,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (..., inputs)."""
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        rows = x.astype(self.dtype).reshape(-1, x.shape[-1])
        products = pad_rows(jnp.matmul, rows, kernel, 1)
        return (products + bias).reshape(*x.shape[:-1], -1)


class Conv(nnx.Module):
    """A convolution of NHWC images with a size x size kernel, HWIO; `zero` starts it at nothing.

    `padding` is the number of zero pixels (before, after) each axis; by default height and width stay.
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

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (b, h, w, inputs)."""
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        return conv2d(x.astype(self.dtype), kernel, self.stride, self.padding) + bias


def swish(x: jax.Array) -> jax.Array:
    """x sigmoid(x), by the hyperbolic tangent: XLA's CPU backend takes two thirds of the time that it takes by exp."""
    return x * (0.5 + 0.5 * jnp.tanh(0.5 * x))


class GroupNorm(nnx.Module):
    """Group normalisation (Wu and He 2018) in one pass over the image.

    Per-channel sums and sums of squares are folded into one scale and one shift per channel, so that the
    image is read once for the statistics and once to be normalised; XLA on CPU takes five times as long over
    the reshape-mean-variance form. Sums over the channels of a group, and copies to each of them, are products with
    a matrix: XLA would fuse anything simpler into the pass over the image, and compute it again at each pixel.
    """

    def __init__(self, channels: int, dtype: DTypeLike, *, groups: int | None = None, epsilon: float = 1e-6):
        # Song et al. take min(channels // 4, 32) groups; other widths take the nearest smaller divisor.
        self.groups = groups or max(n for n in range(1, min(channels // 4, 32) + 1) if channels % n == 0)
        self.epsilon = epsilon
        self.dtype = dtype
        self.scale = nnx.Param(jnp.ones((channels,)))
        self.bias = nnx.Param(jnp.zeros((channels,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (b, h, w, c)."""
        return self._applied(x, _affine)

    def swished(self, x: jax.Array) -> jax.Array:
        """swish of the norm. For the gradient only x is kept; what lies between is computed again, in the same pass."""
        return self._applied(x, jax.checkpoint(lambda *args: swish(_affine(*args))))

    def _applied(self, x: jax.Array, function: Callable[..., jax.Array]) -> jax.Array:
        _, h, w, c = x.shape
        wide = x.astype(jnp.float32)
        member = jnp.repeat(jnp.eye(self.groups), c // self.groups, axis=0)
        count = h * w * (c // self.groups)
        mean, square = _pair(wide.sum((1, 2)), jnp.square(wide).sum((1, 2)), member / count)
        variance = jnp.maximum(square - jnp.square(mean), 0.0)
        rate, mean = _pair(jax.lax.rsqrt(variance + self.epsilon), mean, member.T)
        scale = rate * self.scale[...]
        shift = self.bias[...] - mean * scale
        return function(x, scale, shift).astype(self.dtype)


def _pair(x: jax.Array, y: jax.Array, factor: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x @ factor and y @ factor, as one product with float32 factors on every platform.

    Side by side along an axis of their own: joined along that of the images, which training spreads over devices, rows
    would change devices at every norm.
    """
    both = jnp.matmul(jnp.stack([x, y]), factor, precision=jax.lax.Precision.HIGHEST)
    return both[0], both[1]


def _affine(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """A scale and a shift (b, c) of each channel of x (b, h, w, c), in float32."""
    return x.astype(jnp.float32) * scale[:, None, None] + shift[:, None, None]


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zero a share `rate` of x and scale up the rest; nothing without a key (evaluation)."""
    if key is None or rate == 0.0:
        return x
    kept = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros((), x.dtype))
