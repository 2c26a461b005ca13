"""The shapes that annotations state are checked in these tests."""

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from sdejax.nn.attention import attend
from sdejax.nn.layers import GroupNorm

pytest.importorskip("beartype")


def test_an_array_of_another_shape_is_refused_inside_and_outside_of_a_trace():
    # Rejects a hook that is installed too late, and one that passes tracers by.
    norm = GroupNorm(8, jnp.float32)
    for call in (norm, jax.jit(norm.__call__)):
        assert call(jnp.ones((2, 4, 4, 8))).shape == (2, 4, 4, 8)
        with pytest.raises(jaxtyping.TypeCheckError, match="'x'"):
            call(jnp.ones((2, 8)))


def test_axes_of_one_name_are_equally_long():
    query, key = jnp.ones((2, 3, 1, 8)), jnp.ones((2, 5, 1, 8))
    assert attend(query, key, key).shape == query.shape
    with pytest.raises(jaxtyping.TypeCheckError, match="'value'"):
        attend(query, key, key[:, :4])
