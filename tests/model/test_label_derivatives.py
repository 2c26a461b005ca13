"""Labels have a derivative by time everywhere: an edit that is differentiated by its strength needs it.

At rectified flow's t = 1 tau is infinite, and so is its derivative.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj

LABELS = [sj.TimeLabel(), sj.LevelLabel(), sj.NoiseIndexLabel(), sj.LogLevelLabel()]
PROCESSES = [sj.VPSDE(), sj.VESDE(), sj.SubVPSDE(), sj.RectifiedFlow()]


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("label", LABELS, ids=lambda label: type(label).__name__)
def test_a_label_has_a_finite_derivative_by_time_which_is_that_of_differences(label, sde):
    def of(t):
        return label(sde, t, 1.0)

    slope = jax.vmap(jax.grad(of))
    assert np.all(np.isfinite(slope(jnp.asarray([0.0, 1.0]))))
    t, h = jnp.asarray([0.2, 0.5, 0.8]), 1e-2
    # Float32 over a step of 0.01, and the third derivative; log tau for log sqrt(tau) would be off by 2.
    np.testing.assert_allclose(slope(t), (of(t + h) - of(t - h)) / (2.0 * h), rtol=1e-2)
