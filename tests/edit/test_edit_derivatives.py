"""Derivatives through every editor, in both modes: by the model, the prompt, the guidance, the image, mask, strength.

A path has no derivative by time, so those by the strength hold the unit noises of the steps fixed: with noise, central
differences are of something else, and both modes must agree.
"""

import numpy as np
import pytest

import sdejax as sj
from tests.derivatives import KEYS, SHAPE, check, denoisers

ODE = sj.Sampler(4, stochasticity=0.0)
# Rectified flow at t = 1, where alpha is 0 and tau is infinite, with masks of nothing and of all; and a start below the
# smallest level, whose steps have no length. A square root of 0, a logarithm of 0 or of infinity, or the quotient of a
# step by its length gives nan.
EDGES = (
    {
        "strength": np.float32(1.0),
        "mask": np.random.default_rng(4).choice(np.array([0.0, 0.5, 1.0], np.float32), (2, *SHAPE)),
    },
    {"strength": np.float32(0.005)},
)
NOISY = ("strength",)


@pytest.mark.parametrize("repeats", [1, 2])
def test_sdedit(repeats):
    def edited(at):
        how = {"strength": at["strength"], "mask": at["mask"], "repeats": repeats, "sampler": ODE}
        return sj.sdedit(denoisers(at, sj.RectifiedFlow())[1], sj.RectifiedFlow(), at["image"], KEYS, **how)

    check(edited, EDGES)


def test_restore():
    def restored(at):
        sde, known = sj.RectifiedFlow(), sj.Luminance()
        how = {"strength": at["strength"], "sampler": ODE}
        return sj.restore(denoisers(at, sde)[1], sde, at["image"], KEYS, known, **how)

    check(restored, EDGES)


@pytest.mark.parametrize(
    ("editor", "sampler", "but"),
    [
        (sj.sync_sde, ODE, ()),
        (sj.flow_edit, None, NOISY),
        (sj.cycle_diffusion, None, NOISY),
        (sj.edit_friendly_inversion, None, NOISY),
        (sj.ode_inversion, None, ()),
        (sj.fire_flow, None, ()),
        (sj.rf_inversion, None, ()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_editors_by_two_prompts(editor, sampler, but):
    def edited(at):
        sde = sj.RectifiedFlow()
        how = {"strength": at["strength"], "mask": at["mask"], "sampler": sampler or sj.Sampler(4)}
        return editor(*denoisers(at, sde), sde, at["image"], KEYS, **how)

    check(edited, EDGES, but)
