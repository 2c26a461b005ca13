"""If the image, the denoisers and the noise are transformed alike, the edit is transformed alike.

The transformations: another order of pixels or of values, flips, x -> -x, and x -> x + b in the data, which moves x_t
by alpha b. Each is one image of a batch (`tests.symmetries`). Under x -> a x in the data the ODE is the same if the
noise level is a times as large at every step.
"""

import diffrax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from tests.symmetries import ALL, NAMES, SHAPE, Alike, reorder, symmetric_keys, transform

RANDOM = np.random.default_rng(7)
IMAGE = RANDOM.uniform(-1.0, 1.0, SHAPE).astype(np.float32)
MASK = RANDOM.choice(np.array([0.0, 0.4, 1.0], np.float32), SHAPE, p=[0.2, 0.4, 0.4])
MEANS = RANDOM.uniform(-1.0, 1.0, (2, 3, *SHAPE)).astype(np.float32)


def mixtures(sde, numbers=ALL) -> tuple[sj.Denoiser, sj.Denoiser]:
    """Source and target, which have none of the symmetries themselves."""
    one, other = (
        Alike(sj.MixtureDenoiser(sde, np.ones(3, np.float32), means, 0.4), sde, tuple(numbers)) for means in MEANS
    )
    return one, other


def check(edited, numbers=ALL):
    """Each image is the first one's transform."""
    edited = np.asarray(edited)
    assert np.ptp(edited[0]) > 0.5
    for number, image, expected in zip(numbers, edited, transform(edited[0], numbers), strict=True):
        np.testing.assert_allclose(image, expected, atol=1e-4, err_msg=NAMES[number])


# Float32, of sums in another order. A result or a D that is clipped to [-1, 1], an image that is not scaled with alpha
# or by an inversion's 1 - r, an absolute value, a mirror whose products are sums over some of the axes of an image, and
# a mask of another image are off by 0.01 and more.
@pytest.mark.parametrize(
    ("sampler", "but"),
    [
        (sj.Sampler(6, solver=sj.Exponential(2, sj.Langevin())), []),
        # Runge-Kutta steps of eq. 10 keep the line alpha b only up to their error.
        (sj.Sampler(6, solver=sj.Diffrax(diffrax.Heun()), stochasticity=0.5), ["translation"]),
    ],
    ids=["Exponential and Langevin", "Heun"],
)
def test_samples_are_transformed_as_the_model_and_the_noise_are(sampler, but):
    # alpha = 0 at t = 1. Other processes start there from the mean 0, which a translation does not keep.
    sde, numbers = sj.RectifiedFlow(), [number for number in ALL if NAMES[number] not in but]
    check(sj.sample(mixtures(sde, numbers)[1], sde, symmetric_keys(1, numbers), SHAPE, sampler=sampler), numbers)


def test_sdedit_is_transformed_as_the_guide_is():
    sde = sj.VPSDE()
    how = {"strength": 0.6, "mask": reorder(MASK), "repeats": 2, "sampler": sj.Sampler(6)}
    check(sj.sdedit(mixtures(sde)[1], sde, transform(IMAGE), symmetric_keys(1), **how))


@pytest.mark.parametrize(
    ("coupling", "sde"),
    [
        ("synchronous(2)", sj.VESDE()),
        ("independent", sj.SubVPSDE()),
        ("correlated(0.5)", sj.RectifiedFlow()),
        ("reflection", sj.VPSDE()),
    ],
)
def test_sync_sde_is_transformed_as_the_image_is_under_every_coupling(coupling, sde):
    how = {"strength": 0.7, "mask": reorder(MASK), "sampler": sj.Sampler(6), "coupling": coupling}
    check(sj.sync_sde(*mixtures(sde), sde, transform(IMAGE), symmetric_keys(1), **how))


@pytest.mark.parametrize(
    ("editor", "sde"),
    [
        (sj.flow_edit, sj.RectifiedFlow()),
        (sj.cycle_diffusion, sj.VPSDE()),
        (sj.edit_friendly_inversion, sj.SubVPSDE()),
        (sj.ode_inversion, sj.VESDE()),
        (sj.fire_flow, sj.RectifiedFlow()),
        (sj.rf_inversion, sj.RectifiedFlow()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_editors_by_two_prompts_are_transformed_as_the_image_is(editor, sde):
    how = {"strength": 0.7, "mask": reorder(MASK), "sampler": sj.Sampler(6)}
    check(editor(*mixtures(sde), sde, transform(IMAGE), symmetric_keys(1), **how))


@pytest.mark.parametrize(
    ("known", "but"),
    [(sj.Luminance(), ["values"]), (sj.BlockMeans(2), ["values", "pixels"])],
    ids=["luminance", "blocks"],
)
def test_restore_is_transformed_by_the_symmetries_of_what_is_known(known, but):
    sde, numbers = sj.VPSDE(), [number for number in ALL if NAMES[number] not in but]
    how = {"strength": 0.8, "sampler": sj.Sampler(6)}
    guides = transform(IMAGE, numbers)
    check(sj.restore(mixtures(sde, numbers)[1], sde, guides, symmetric_keys(1, numbers), known, **how), numbers)


def _by_ratios(sde: sj.SDE, start, steps: int):
    """A grid of fixed ratios of tau, unlike the library's, which end at the process's smallest."""
    return sde.time(sde.tau(start) * 0.4 ** jnp.arange(steps))


SCALE, BY_RATIOS = 1.7, sj.Sampler(12, _by_ratios, stochasticity=0.0)


@pytest.mark.parametrize(
    ("editor", "sde"),
    [(sj.sync_sde, sj.RectifiedFlow()), (sj.ode_inversion, sj.VPSDE()), (sj.sdedit, sj.SubVPSDE())],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_with_the_data_and_the_noise_level_scaled_the_edit_of_the_ode_is_scaled(editor, sde):
    """x0 -> a x0 with sqrt(tau) -> a sqrt(tau) at every step: x / alpha -> a x / alpha."""
    strength = 0.5

    def edited(scale):
        models = [
            sj.MixtureDenoiser(sde, np.ones(3, np.float32), np.float32(scale) * means, np.float32(0.4 * scale))
            for means in MEANS[(1 if editor is sj.sdedit else 0) :]
        ]
        begin = float(sde.time(scale**2 * sde.tau(strength)))
        image = np.float32(scale) * IMAGE[None]
        return np.asarray(editor(*models, sde, image, sj.keys([0]), strength=begin, sampler=BY_RATIOS))

    # Float32, through the times. A level of its own that enters a step, such as log(tau + 0.01), is off by 0.001 and
    # more.
    np.testing.assert_allclose(edited(SCALE), SCALE * edited(1.0), atol=2e-4)
    assert np.abs(edited(1.0) - IMAGE).mean() > 0.1
