"""Compiler options belong to whole programs."""

import jax
import jax.numpy as jnp

from sdejax.batch_invariance import batch_invariant
from sdejax.nn.kernels.row_padding import product_of_rows
from sdejax.runtime.jit import compiler_options, jit


def test_a_whole_program_has_the_options_and_a_part_of_one_has_none():
    # jax.jit refuses options inside another jit and under a gradient; so would this, if it passed them there.
    @jit
    def square(x):
        return x * x

    assert float(square(3.0)) == 9.0
    assert float(jax.jit(lambda x: square(x) + square(2.0))(3.0)) == 13.0
    assert float(jax.grad(square)(3.0)) == 6.0
    assert square.lower(1.0).compile() is not None


def test_batch_invariant_programs_have_other_options():
    fast = compiler_options()
    with batch_invariant():
        invariant = compiler_options()
    assert set(fast) <= {"xla_cpu_experimental_ynn_fusion_type"}
    assert set(invariant) <= {"xla_cpu_experimental_ynn_fusion_type", "xla_cpu_enable_platform_dependent_math"}
    assert compiler_options() == fast
    assert not fast or fast != invariant


def test_a_part_of_a_program_is_traced_anew_in_the_other_mode():
    """jax keeps one trace of a function. If the mode were no part of its key, the second program would have the
    first one's trace, and batch-invariant products of few rows would not be padded.
    """

    @jit
    def multiply(x, kernel):
        return product_of_rows(jnp.matmul, x, kernel, 1)

    x, kernel = jnp.ones((1, 256)), jnp.ones((256, 256))

    def pads():
        return "pad" in str(jax.make_jaxpr(lambda x: multiply(x, kernel))(x))

    assert not pads()
    with batch_invariant():
        assert pads()
        assert "pad" in multiply.lower_plain(x, kernel).as_text()
    assert not pads()
