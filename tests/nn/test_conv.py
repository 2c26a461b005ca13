"""The convolution is nine shifted products, whichever kernel computes it, and so are its derivatives."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.nn.conv import conv2d


def direct(x, kernel, stride=1, padding=(1, 1)):
    """A shifted product of matrices for each tap; autodiff finds its derivatives."""
    size = kernel.shape[0]
    wide = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    h, w = ((side - size) // stride + 1 for side in wide.shape[1:3])
    taps = (
        (i, j, wide[:, i : i + stride * h : stride, j : j + stride * w : stride]) for i, j in np.ndindex(size, size)
    )
    return sum(tap @ kernel[i, j] for i, j, tap in taps)


@pytest.mark.parametrize(
    ("shape", "size", "outputs", "options"),
    [
        ((2, 8, 6, 4), 3, 5, {}),
        ((1, 8, 8, 9), 3, 1, {}),
        ((3, 5, 4, 27), 3, 3, {}),
        ((2, 6, 4, 128), 3, 128, {}),
        ((2, 8, 6, 4), 3, 5, {"stride": 2, "padding": (0, 1)}),
        ((2, 6, 8, 4), 3, 5, {"padding": (0, 0)}),
        ((2, 5, 4, 3), 2, 4, {"padding": (0, 1)}),
    ],
    ids=["strips", "one output", "few outputs", "wide", "stride 2", "no padding", "2 x 2"],
)
def test_values_and_gradients_are_those_of_shifted_products(shape, size, outputs, options):
    # 1e-5 of the largest: float32. Rejects a stride that starts at another pixel, padding before in the place of
    # padding after, mirrored taps, and a kernel that is chosen for a case that it does not compute.
    x = jax.random.normal(jax.random.key(0), shape)
    kernel = jax.random.normal(jax.random.key(1), (size, size, shape[-1], outputs)) / np.sqrt(size**2 * shape[-1])
    wanted = jnp.asarray(direct(x, kernel, **options))
    weight = jax.random.normal(jax.random.key(2), wanted.shape)

    def gradients(function):
        def loss(x, kernel):
            y = function(x, kernel, **options)
            return jnp.sum(jnp.sin(y) * weight), y

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, kernel)

    for a, b in zip(jax.tree.leaves(gradients(conv2d)), jax.tree.leaves(gradients(direct)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()), rtol=1e-4)


def test_forward_mode_gradients_per_example_and_second_derivatives_work():
    # A custom_vjp would refuse the first, linear_call the second.
    x, kernel = jax.random.normal(jax.random.key(0), (2, 4, 4, 3)), jax.random.normal(jax.random.key(1), (3, 3, 3, 3))

    def loss(f, kernel, x):
        return jnp.sum(jnp.sin(f(x, kernel)))

    def derivatives(f):
        one = jax.jvp(lambda kernel: f(x, kernel), (kernel,), (kernel,))[1]
        each = jax.vmap(jax.grad(lambda kernel, x: loss(f, kernel, x[None])), (None, 0))(kernel, x)
        second = jax.jvp(jax.grad(lambda kernel: loss(f, kernel, x)), (kernel,), (kernel,))[1]
        return one, each, second

    for a, b in zip(derivatives(conv2d), derivatives(direct), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max()))


def test_a_derivative_by_the_image_alone_does_no_work_for_the_kernel():
    # Two convolutions are needed. Rejects a tangent of zeros for the kernel that is convolved as well: two more.
    x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
    program = str(jax.make_jaxpr(lambda x: jax.jvp(lambda x: conv2d(x, kernel), (x,), (x,)))(x))
    assert program.count("conv_general_dilated[") == 2


# Few pixels and many channels, as at the lowest resolution.
SUMS = """
import hashlib, jax, numpy as np
from sdejax import batch_invariant
from sdejax.runtime.jit import jit
draw = lambda *shape: np.random.default_rng(0).standard_normal(shape, np.float32)
numbers = ("NHWC", "HWIO", "NHWC")
conv = jit(lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers))
dot = jit(lambda x, kernel: x @ kernel)
with batch_invariant():
    found = [conv(draw(2, 4, 4, 256), draw(3, 3, 256, 128)), dot(draw(128, 224), draw(224, 96))]
print(*[hashlib.sha256(np.asarray(one).tobytes()).hexdigest() for one in found])
"""


def test_the_number_of_threads_changes_no_bit_of_batch_invariant_programs():
    """XLA has as many threads as devices or cores, whichever are more. Rejects Eigen's products, split by threads."""
    digests = set()
    for threads in ("2", "4", "7"):
        environment = {**os.environ, "NPROC": threads, "JAX_NUM_CPU_DEVICES": "1"}
        run = subprocess.run([sys.executable, "-c", SUMS], env=environment, check=True, capture_output=True)
        digests.add(run.stdout)
    assert len(digests) == 1
