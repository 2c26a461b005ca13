"""Each kernel has the values and the derivatives of the plain formula beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.nn.kernels.attention import attention, one_head_attention
from sdejax.nn.kernels.conv3x3 import convolve, convolve_by_shifts, convolve_in_strips, convolve_with_strip_gradient
from sdejax.nn.kernels.group_norm import group_norm, group_norm_by_products, group_norm_swish_by_products
from sdejax.nn.kernels.row_padding import padded_product_of_rows
from sdejax.nn.kernels.swish import swish, swish_by_tanh


def _padded(product, rows):
    return lambda x, kernel: padded_product_of_rows(product, x, kernel, rows)


def _groups(norm, groups):
    return lambda *args: norm(*args, groups, 1e-6)


# The kernel, its formula, and the shapes of the arguments. Images have other heights than widths, and kernels are not
# symmetric, so that swapped axes and mirrored taps show.
CASES = {
    # Reject a strip that misses its neighbours' rows, and strips in another order than the output's.
    "strips of one image": (convolve_in_strips, convolve, [(1, 16, 6, 4), (3, 3, 4, 5)]),
    "strips of two images": (convolve_in_strips, convolve, [(2, 8, 6, 4), (3, 3, 4, 5)]),
    "a height that has no strips": (convolve_in_strips, convolve, [(3, 5, 4, 4), (3, 3, 4, 5)]),
    "images enough without strips": (convolve_in_strips, convolve, [(8, 4, 6, 4), (3, 3, 4, 5)]),
    # Rejects a derivative that leaves out one of the two arguments.
    "a gradient in strips": (convolve_with_strip_gradient, convolve, [(2, 8, 6, 4), (3, 3, 4, 5)]),
    # Reject taps that are mirrored, or whose rows and columns are swapped.
    "shifted products": (convolve_by_shifts, convolve, [(2, 6, 8, 27), (3, 3, 27, 3)]),
    "shifted products to one channel": (convolve_by_shifts, convolve, [(1, 5, 4, 9), (3, 3, 9, 1)]),
    # Rejects tanh(x) in the place of tanh(x / 2).
    "swish": (swish_by_tanh, swish, [(1000,)]),
    # Reject statistics per channel, groups that interleave, a sum for a mean, and statistics held constant by the
    # derivative.
    "group norm": (_groups(group_norm_by_products, 4), _groups(group_norm, 4), [(2, 5, 6, 24), (24,), (24,)]),
    "one group": (_groups(group_norm_by_products, 1), _groups(group_norm, 1), [(2, 3, 4, 8), (8,), (8,)]),
    "group norm and swish": (
        _groups(group_norm_swish_by_products, 6),
        lambda x, scale, bias: swish(group_norm(x, scale, bias, 6, 1e-6)),
        [(2, 5, 6, 24), (24,), (24,)],
    ),
    # Rejects products without 1 / sqrt(c), and a softmax over the queries.
    "one head": (one_head_attention, attention, [(2, 7, 1, 8), (2, 5, 1, 8), (2, 5, 1, 8)]),
    # Reject zeros before the rows, and a cut that leaves some of them.
    "padded rows": (_padded(jnp.matmul, 1), jnp.matmul, [(3, 12), (12, 5)]),
    "padded images": (_padded(convolve, 16), convolve, [(3, 4, 4, 6), (3, 3, 6, 5)]),
}


def _draw(shapes, seed):
    random = np.random.default_rng(seed)
    return [jnp.asarray(random.standard_normal(shape, np.float32)) for shape in shapes]


@pytest.mark.parametrize("case", CASES)
def test_a_kernel_agrees_with_its_formula(case):
    """To 1e-5 of the largest number: float32 in another order. The wrong formulas beside the cases are off by 1e-1."""
    kernel, formula, shapes = CASES[case]
    args, tangents = _draw(shapes, 0), _draw(shapes, 1)
    (weights,) = _draw([jax.eval_shape(formula, *args).shape], 2)

    def derivatives(function):
        value, forward = jax.jvp(function, args, tangents)
        backward = jax.grad(lambda *args: jnp.sum(jnp.sin(function(*args)) * weights), range(len(args)))(*args)
        return value, forward, backward

    found, wanted = (jax.jit(derivatives, static_argnums=0)(function) for function in (kernel, formula))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


def test_group_norm_divides_by_the_root_of_variance_plus_epsilon():
    # Variance 1e-6 beside epsilon 1e-6. Rejects sqrt(variance) + epsilon, off by 0.4, and no epsilon.
    args = _draw([(2, 5, 6, 8), (8,), (8,)], 0)
    args[0] = args[0] * 1e-3
    found, wanted = (norm(args[0], args[1], args[2], 2, 1e-6) for norm in (group_norm_by_products, group_norm))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_swish_and_its_derivative_are_finite_far_from_zero():
    # Rejects exp(-x), which overflows at -100, in a quotient of infinities.
    x = jnp.array([-1e4, -100.0, 100.0, 1e4])
    for function in (swish_by_tanh, jax.vmap(jax.grad(swish_by_tanh))):
        assert jnp.isfinite(function(x)).all()
    np.testing.assert_allclose(swish_by_tanh(x), swish(x), atol=1e-6)


def test_shifted_products_are_summed_in_float32_for_narrow_types():
    # 2^-8: the result is rounded once. Rejects sums of nine bfloat16 numbers, rounded at each: 3 times as far.
    x, kernel = (array.astype(jnp.bfloat16) for array in _draw([(2, 16, 16, 36), (3, 3, 36, 4)], 0))
    found = convolve_by_shifts(x, kernel)
    wanted = convolve(x.astype(jnp.float32), kernel.astype(jnp.float32))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_less(jnp.abs(found.astype(jnp.float32) - wanted), 2.0**-8 * jnp.abs(wanted) + 1e-5)


def test_one_head_has_its_softmax_in_float32_for_narrow_types():
    # 2^-6: weights and output are rounded once each. Rejects logits of 30 rounded to bfloat16, off by 6%.
    query, key, value = _draw([(2, 16, 1, 32), (2, 16, 1, 32), (2, 16, 1, 32)], 0)
    narrow = [array.astype(jnp.bfloat16) for array in (8.0 * query, 8.0 * key, value)]
    found = one_head_attention(*narrow)
    wanted = attention(*(array.astype(jnp.float32) for array in narrow))
    assert found.dtype == jnp.bfloat16
    assert float(jnp.abs(found.astype(jnp.float32) - wanted).max()) < 2.0**-6 * float(jnp.abs(wanted).max())


def test_norm_and_swish_keep_only_the_image_for_the_gradient():
    # x, and 2 x for the sum of squares. Rejects the norm, its tanh or its sigmoid kept as well: each is as large as x.
    args = _draw([(2, 16, 16, 24), (24,), (24,)], 0)
    function = _groups(group_norm_swish_by_products, 4)
    kept = jax.tree.leaves(jax.eval_shape(lambda *args: jax.vjp(function, *args)[1], *args))
    assert sum(np.prod(leaf.shape) for leaf in kept) < 2.5 * args[0].size
