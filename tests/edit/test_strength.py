"""The strength that a wish asks for, on edits whose distance is known."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.edit.strength import largest_strength, smallest_strength
from sdejax.sde.variance_preserving import VPSDE
from sdejax.solvers.exponential import Exponential
from sdejax.solvers.sampler import Sampler

M, S, G = -0.3, 0.5, 0.5
SHAPE = (4, 4, 3)
GUIDE = np.full(SHAPE, G, np.float32)
SDE = VPSDE()
SAMPLER = Sampler(100, "log_snr", solver=Exponential(2), stochasticity=0.0)


def edit(strength):
    """SDEdit by the ODE of N(M, S^2): the result is M + S / sqrt(S^2 + tau) (G - M + sqrt(tau) e)."""
    denoiser = sj.GaussianDenoiser(SDE, M, S)
    return np.asarray(
        sj.sdedit(denoiser, SDE, jnp.asarray(GUIDE)[None], sj.keys([3]), strength=strength, sampler=SAMPLER)[0]
    )


def rms(image):
    return float(np.sqrt(np.mean(np.square(image - GUIDE))))


def test_the_strongest_edit_within_a_distance_is_at_that_distance():
    """Within it, and a thousandth more strength is outside: rejects the other side of the last interval."""
    for limit in (0.1, 0.3, 0.6):
        strength, result = largest_strength(edit, GUIDE, limit)
        np.testing.assert_array_equal(result, edit(strength))
        assert rms(result) <= limit < rms(edit(strength + 2**-10))
    assert largest_strength(edit, GUIDE, 2.0)[0] == 1.0


def test_the_weakest_edit_that_is_realistic_enough_just_is():
    def realism(image):
        return 1.0 - float(abs(image.mean() - M)) / (G - M)

    for least in (0.3, 0.7):
        strength, result = smallest_strength(edit, realism, least)
        np.testing.assert_array_equal(result, edit(strength))
        assert realism(result) >= least > realism(edit(strength - 2**-10))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: largest_strength(edit, GUIDE, 0.0), "keep-distance=0.0: must be above 0"),
        (lambda: largest_strength(edit, GUIDE, float("nan")), "keep-distance=nan: must be above 0"),
        (lambda: largest_strength(lambda strength: GUIDE + 1.0, GUIDE, 0.1), "even a strength of 0.000976562 leads"),
        (lambda: smallest_strength(edit, lambda image: 0.2, 0.5), "realism=0.5: at strength 1 it is 0.20"),
        (lambda: smallest_strength(edit, lambda image: 0.2, 1.0), "realism=1.0: must be in (0, 1)"),
        # NaN compares as too far, and as no less realistic: both would have moved the strength without a word.
        (
            lambda: largest_strength(lambda strength: GUIDE * np.nan, GUIDE, 0.1),
            "strength=1: a value of the result is NaN",
        ),
        (
            lambda: smallest_strength(lambda strength: GUIDE * np.nan, lambda image: 0.9, 0.5),
            "strength=1: a value of the",
        ),
    ],
)
def test_what_cannot_be_had_is_one_sentence(call, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        call()
