"""Compiler options belong to whole programs."""

import jax

from sdejax.batch_invariance import batch_invariant
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
