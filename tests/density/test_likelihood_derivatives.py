"""Derivatives of the log density, in both modes, against those of Gaussian data's closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj

SDE = sj.VPSDE()
KEYS = sj.keys(range(2))
AT = {
    "mean": np.float32(0.2),
    "std": np.float32(0.6),
    "level": np.float32(0.05),
    "images": np.random.default_rng(0).uniform(-1.0, 1.0, (2, 2)).astype(np.float32),
}


def found(at):
    denoiser = sj.GaussianDenoiser(SDE, at["mean"], at["std"])
    how = {"level": at["level"], "divergence": "exact", "rtol": 1e-5, "max_steps": 512}
    return jnp.sum(sj.log_likelihood(denoiser, SDE, at["images"], KEYS, **how).value)


def exact(at):
    variance = at["std"] ** 2 + at["level"] ** 2
    return -0.5 * jnp.sum(jnp.square(at["images"] - at["mean"]) / variance + jnp.log(2.0 * jnp.pi * variance))


@pytest.mark.slow
def test_the_log_density_has_the_derivatives_of_its_closed_form():
    reverse, wanted = jax.jit(jax.grad(found))(AT), jax.grad(exact)(AT)
    forward = jax.jit(lambda along: jax.jvp(found, (AT,), (along,))[1])
    for name in AT:
        # What VP's largest noise still has of the data, 0.6%, and the tolerance of the steps. A level that enters as
        # tau, or whose own term d log a_0 is left out, is off by the half and more.
        np.testing.assert_allclose(reverse[name], wanted[name], rtol=0.01, atol=0.02, err_msg=name)
        along = {**jax.tree.map(np.zeros_like, AT), name: np.ones_like(AT[name])}
        np.testing.assert_allclose(forward(along), jnp.sum(reverse[name]), rtol=1e-4, atol=1e-4, err_msg=name)
