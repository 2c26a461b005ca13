"""Eq. 6: the velocity is the derivative of x_t, for every process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.denoiser.prediction import PredictDisplacement, PredictVelocity
from sdejax.sde.rectified_flow import RectifiedFlow
from sdejax.sde.variance_exploding import VESDE
from sdejax.sde.variance_preserving import VPSDE, DiscreteVPSDE, SubVPSDE

TIMES = jnp.array([0.025, 0.155, 0.305, 0.505, 0.705, 0.955])  # between the levels of the DDPM, where B is smooth
SDES = [VPSDE(), VESDE(), SubVPSDE(), RectifiedFlow(), DiscreteVPSDE(tuple(np.linspace(1e-3, 0.2, 100).tolist()))]


@pytest.fixture(params=SDES, ids=["VP", "VE", "subVP", "RF", "DDPM"])
def process(request):
    return request.param


def pairs():
    """Clean images and noise for each of the times."""
    return jax.random.normal(jax.random.key(0), (2, len(TIMES), 3, 2))


def test_the_velocity_is_the_derivative_of_the_perturbed_image(process):
    """Central differences of `perturb` by t, in double precision.

    1e-4 of the largest velocity: the difference quotient's own error, and float32 in the process. Rejects e - x0 for
    every process but rectified flow, derivatives by log t or by tau, and a sign, each by 0.1 and more.
    """
    x0, noise = pairs()
    with jax.enable_x64():
        times, step = np.asarray(TIMES, np.float64), 1e-5
        wide = [np.asarray(part, np.float64) for part in (x0, noise)]
        ahead, behind = (process.perturb(jnp.asarray(times + d), *wide) for d in (step, -step))
        expected = np.asarray((ahead - behind) / (2.0 * step))
    found = np.asarray(PredictVelocity().target(process, TIMES, x0, noise))
    for own, wanted in zip(found, expected, strict=True):
        assert np.abs(own - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_denoised_inverts_the_velocity(process):
    # 1e-4: float32 through a division by alpha. Rejects a sign, and alpha and sigma exchanged.
    x0, noise = pairs()
    x = process.perturb(TIMES, x0, noise)
    velocity = PredictVelocity().target(process, TIMES, x0, noise)
    np.testing.assert_allclose(PredictVelocity().denoised(process, TIMES, x, velocity), x0, atol=1e-4)


def test_the_velocity_of_rectified_flow_is_the_displacement():
    """Also at t = 1, where there is no signal. 1e-6: float32."""
    times = jnp.append(TIMES, 1.0)
    x0, noise = jax.random.normal(jax.random.key(1), (2, len(times), 5))
    velocity, displacement, flow = PredictVelocity(), PredictDisplacement(), RectifiedFlow()
    output = velocity.target(flow, times, x0, noise)
    np.testing.assert_allclose(output, displacement.target(flow, times, x0, noise), rtol=1e-6)
    x = flow.perturb(times, x0, noise)
    both = [prediction.denoised(flow, times, x, output) for prediction in (velocity, displacement)]
    np.testing.assert_allclose(*both, rtol=1e-6, atol=1e-6)


def test_without_noise_the_denoised_image_is_the_image(process):
    # At t = 0 the velocity of VP is infinite. Rejects 0 times infinity; VE has noise level 0.01 there.
    x = jnp.linspace(-1.0, 1.0, 6).reshape(1, 6)
    found = PredictVelocity().denoised(process, 0.0, x, jnp.ones_like(x))
    np.testing.assert_allclose(found, x, atol=0.2 if isinstance(process, VESDE) else 1e-6)


def test_the_velocity_of_another_process_is_not_the_displacement():
    # Format 1 called e - x0 "velocity" for every process.
    x0, noise = pairs()
    for process in SDES[:3]:
        velocity, displacement = (
            p.target(process, TIMES, x0, noise) for p in (PredictVelocity(), PredictDisplacement())
        )
        assert float(jnp.abs(velocity - displacement).max()) > 0.1
