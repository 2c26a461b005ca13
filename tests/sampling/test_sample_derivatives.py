"""Derivatives through `sample`, in both modes. It starts at t = 1, where rectified flow has alpha = 0."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from tests.derivatives import KEYS, SHAPE, check, denoisers


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_by_the_model_the_prompt_and_the_guidance(lam):
    def drawn(at):
        sde = sj.RectifiedFlow()
        return sj.sample(denoisers(at, sde)[1], sde, KEYS, SHAPE, sampler=sj.Sampler(4, stochasticity=lam))

    check(drawn)


@pytest.mark.parametrize("solver", [sj.Exponential(2), diffrax.Heun()], ids=["Exponential", "Heun"])
def test_by_the_data_of_an_exact_denoiser(solver):
    """x0 -> a x0 + b of Gaussian data: for the ODE a sample is m + s (its value at m = 0, s = 1), but for the start."""
    sde = sj.RectifiedFlow()

    def drawn(mean, std):
        return sj.sample(
            sj.GaussianDenoiser(sde, mean, std),
            sde,
            KEYS,
            SHAPE,
            sampler=sj.Sampler(64, solver=solver, stochasticity=0.0),
        )

    unit = np.asarray(drawn(0.0, 1.0))
    at = (jnp.float32(0.3), jnp.float32(0.6))
    forward = jax.jit(lambda along: jax.jvp(drawn, at, along)[1])
    reverse = jax.jit(jax.grad(lambda at: jnp.sum(unit * drawn(*at))))(at)
    for number, expected in enumerate((np.ones_like(unit), unit)):
        slope = np.asarray(forward(tuple(jnp.float32(number == k) for k in range(2))))
        # The error of 64 steps. A derivative that stops at a step or at a stage, or nan from alpha = 0, is off by more.
        np.testing.assert_allclose(slope, expected, atol=0.03)
        np.testing.assert_allclose(reverse[number], np.sum(unit * slope), rtol=1e-4)
