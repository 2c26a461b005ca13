"""The convolution's derivatives are those of a convolution, whatever they are computed by."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.nn.conv import conv2d
from sdejax.runtime.jit import compiler_options, jit


def direct(x, kernel):
    """Nine shifted products of matrices, whose gradients autodiff finds by itself."""
    h, w = x.shape[1:3]
    wide = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(wide[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3))


@pytest.mark.parametrize("features", [(4, 5), (9, 1), (27, 3)], ids=str)
@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 8, 6), (3, 5, 4), (8, 4, 4)], ids=str)
def test_the_gradients_are_those_of_nine_shifted_products(shape, features):
    # 1e-5: float32. Rejects a strip that misses its neighbours' rows, strips in another order than the output's, and,
    # where few features come out, taps mirrored or with rows and columns swapped.
    inputs, outputs = features
    x = jax.random.normal(jax.random.key(0), (*shape, inputs))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, inputs, outputs))
    weight = jax.random.normal(jax.random.key(2), (*shape, outputs))
    found, wanted = (
        jax.jit(jax.value_and_grad(lambda x, kernel, f=f: jnp.sum(jnp.sin(f(x, kernel)) * weight), (0, 1)))(x, kernel)
        for f in (conv2d, direct)
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
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


def test_few_outputs_are_summed_in_float32_for_narrow_types():
    # 2^-8: the result is rounded once. Sums of nine bfloat16 numbers, rounded at each, are 3 times as far.
    x = jax.random.normal(jax.random.key(0), (2, 16, 16, 36), jnp.bfloat16)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 36, 4), jnp.bfloat16)
    found, wanted = conv2d(x, kernel), direct(x.astype(jnp.float32), kernel.astype(jnp.float32))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_less(jnp.abs(found.astype(jnp.float32) - wanted), 2.0**-8 * jnp.abs(wanted) + 1e-5)


def test_a_derivative_by_the_image_alone_does_no_work_for_the_kernel():
    # A tangent of zeros for the kernel would be convolved as well: two convolutions more than the two that are needed.
    x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
    program = str(jax.make_jaxpr(lambda x: jax.jvp(lambda x: conv2d(x, kernel), (x,), (x,)))(x))
    assert program.count("conv_general_dilated[") == 2


# Few pixels and many channels, as at the lowest resolution.
SUMS = """
import hashlib, jax, numpy as np
from sdejax.runtime.jit import jit
draw = lambda *shape: np.random.default_rng(0).standard_normal(shape, np.float32)
numbers = ("NHWC", "HWIO", "NHWC")
conv = jit(lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers))
dot = jit(lambda x, kernel: x @ kernel)
found = [conv(draw(2, 4, 4, 256), draw(3, 3, 256, 128)), dot(draw(128, 224), draw(224, 96))]
print(*[hashlib.sha256(np.asarray(one).tobytes()).hexdigest() for one in found])
"""


def test_the_number_of_threads_changes_no_bit():
    """XLA has as many as devices, or as cores where these are more. Rejects Eigen's products, whose sums they cut."""
    said = set()
    for threads in ("2", "4", "7"):
        environment = {**os.environ, "NPROC": threads, "JAX_NUM_CPU_DEVICES": "1"}
        run = subprocess.run([sys.executable, "-c", SUMS], env=environment, check=True, capture_output=True)
        said.add(run.stdout)
    assert len(said) == 1


def test_a_whole_program_has_the_options_and_a_part_of_one_has_none():
    # jax.jit refuses options inside another jit and under a gradient; so would this, if it passed them there.
    @jit
    def square(x):
        return x * x

    assert float(square(3.0)) == 9.0
    assert float(jax.jit(lambda x: square(x) + square(2.0))(3.0)) == 13.0
    assert float(jax.grad(square)(3.0)) == 6.0
    assert set(compiler_options()) <= {"xla_cpu_experimental_ynn_fusion_type"}
    assert square.lower(1.0).compile() is not None
