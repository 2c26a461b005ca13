"""Eq. 15 to 17: log densities by the probability-flow ODE, against closed forms and against the axioms of a density.

The flow carries the model's density and the data's alike, so they differ by what their ends differ in:

    log p(u_0) - log p_data(u_0) = log N(u_T; 0, l_T^2) - log p_data,T(u_T)

where p_data is the data's density with noise of the level l added. For data N(m, s^2) and u_T = m + z sqrt(s^2 + l_T^2)
that is, for each value, log(1 + s^2/l^2) / 2 + z^2 / 2 - u_T^2 / (2 l^2).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.sde.variance_preserving import VPSDE
from tests.tiny import tiny_model

SDE = VPSDE()
KEYS = sj.keys(range(16))
MEAN, STD = np.array([-0.3, 0.1, 0.8]), np.array([0.02, 0.4, 1.5])
WEIGHTS, STDS = np.array([0.2, 0.5, 0.3]), np.array([0.1, 0.3, 0.2])
MEANS = np.array([[-0.8, 0.3, 0.4], [0.1, -0.5, 0.0], [0.7, 0.2, -0.6]])
FINE = {"rtol": 1e-6, "atol": 1e-6}


def normal(x, mean, variance):
    """log N(x; mean, variance) of each value, in float64."""
    return -0.5 * (np.square(np.asarray(x, np.float64) - mean) / variance + np.log(2.0 * np.pi * variance))


def mixture(x, tau):
    """log sum_i w_i N(x; m_i, s_i^2 + tau) of images (b, 3), in float64."""
    terms = normal(x[:, None], MEANS, STDS[:, None] ** 2 + tau).sum(-1) + np.log(WEIGHTS)
    return np.logaddexp.reduce(terms, -1)


def draw(sde, count):
    """Images (count, 3) of the mixture, with the smallest noise."""
    random = np.random.default_rng(0)
    component = random.choice(3, count, p=WEIGHTS)
    std = np.sqrt(STDS[component, None] ** 2 + sde.tau_min)
    return jnp.asarray(MEANS[component] + std * random.standard_normal((count, 3)), jnp.float32)


def of_mixture(sde):
    return sj.MixtureDenoiser(sde, WEIGHTS, MEANS, STDS)


def test_gaussian_data_has_the_closed_form_log_density(sde):
    """With one probe: of a diagonal Jacobian, random signs give the trace itself."""
    least, most = sde.tau_min, sde.tau_max
    z = np.random.default_rng(0).standard_normal((len(KEYS), 3))
    x = jnp.asarray(MEAN + np.sqrt(STD**2 + least) * z, jnp.float32)
    found = sj.log_likelihood(sj.GaussianDenoiser(sde, MEAN, STD), sde, x, KEYS, **FINE)
    stretch = (STD**2 + most) / (STD**2 + least)
    last = MEAN + (np.asarray(x, np.float64) - MEAN) * np.sqrt(stretch)
    exact = np.sum(normal(last, 0.0, most) + 0.5 * np.log(stretch), -1)
    # The solver errs by 3e-5. log a_0 left out is off by 1.5e-4, v_T as N(0, 1) under VE by 8e-4, a trace of the
    # wrong sign by 10; probes that are normal numbers by their own deviation.
    np.testing.assert_allclose(found.value, exact, atol=1e-4)
    # By way of the data's density: without its noise it is off by 0.5 (s = 0.02 in one value).
    density = normal(x, MEAN, STD**2 + least)
    z = (np.asarray(x, np.float64) - MEAN) / np.sqrt(STD**2 + least)
    ends = 0.5 * np.log1p(STD**2 / most) + 0.5 * z**2 - 0.5 * last**2 / most
    np.testing.assert_allclose(found.value, (density + ends).sum(-1), atol=1e-4)


def test_a_mixture_has_its_density(sde):
    x = draw(sde, len(KEYS))
    found = sj.log_likelihood(of_mixture(sde), sde, x, KEYS, divergence="exact", **FINE)
    # The ends differ by no more than the components' do: |m| |z| / l_T each, and (s^2 + m^2) (1 + z^2) / l_T^2, which
    # is 1e-4. The sum of all the entries of the Jacobian, or 3 times the first of its diagonal, is off by 3.
    ends = 4.0 * np.linalg.norm(MEANS, axis=1).max() / sde.tau_max**0.5 + 1e-3
    np.testing.assert_allclose(found.value, mixture(np.asarray(x), sde.tau_min), atol=ends)


def test_the_level_is_the_noise_that_the_density_has():
    sde, x = SDE, draw(SDE, len(KEYS))
    for level in (0.05, 0.3):
        found = sj.log_likelihood(of_mixture(sde), sde, x, KEYS, level=level, divergence="exact", **FINE)
        # As above, l_T = 152; the density at the level 0.01 is off by 0.2 and 3.
        np.testing.assert_allclose(found.value, mixture(np.asarray(x), level**2), atol=0.03)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Anything:
    """No posterior mean of any data: (15) is an ODE, and (16) its density, whatever D is."""

    sde: sj.SDE = dataclasses.field(metadata={"static": True})

    def __call__(self, t, x):
        level = jnp.sqrt(self.sde.tau(t))
        u = x / self.sde.alpha(t)
        return 0.4 * jnp.tanh(3.0 * u / (1.0 + level)) + 0.3 * jnp.sin(2.0 * u) / (1.0 + level**2) - 0.1


def test_densities_of_one_value_sum_to_one_whatever_the_denoiser(sde):
    x = jnp.linspace(-2.0, 2.0, 801)[:, None]
    found = sj.log_likelihood(Anything(sde), sde, x, sj.keys(range(801)), level=0.1, **FINE)
    density = np.exp(np.asarray(found.value, np.float64))
    assert density[0] < 1e-4 and density[-1] < 1e-4  # nothing lies outside
    # Quadrature and tolerance; a log a_0 or alpha left out, or the trace of D for that of a D, is off by 0.5% and more.
    assert abs(np.trapezoid(density, np.asarray(x)[:, 0]) - 1.0) < 2e-3


@pytest.mark.slow
def test_hutchinson_is_unbiased_and_probes_are_averaged():
    keys = sj.keys(range(512))
    x = jnp.broadcast_to(draw(SDE, 1), (512, 3))
    exact = float(sj.log_likelihood(of_mixture(SDE), SDE, x[:1], keys[:1], divergence="exact").value[0])
    one, four = (
        np.asarray(sj.log_likelihood(of_mixture(SDE), SDE, x, keys, probes=n).value, np.float64) for n in (1, 4)
    )
    assert one.std() > 0.05  # the Jacobian is not diagonal
    for values in (one, four):
        # 4.5 standard errors and the tolerance; probes of another variance, or of numbers that are not independent,
        # are off by a multiple of the deviation.
        assert abs(values.mean() - exact) < 4.5 * values.std() / len(values) ** 0.5 + 1e-3
    # 4.5 standard errors of a ratio of variances, of numbers no wilder than normal ones.
    assert abs(four.var() / one.var() - 0.25) < 4.5 * 0.25 * (4.0 / 512) ** 0.5


def test_the_error_falls_with_the_tolerance():
    x = draw(SDE, len(KEYS))

    def value(tolerance):
        found = sj.log_likelihood(of_mixture(SDE), SDE, x, KEYS, divergence="exact", rtol=tolerance, atol=tolerance)
        return np.asarray(found.value, np.float64), np.asarray(found.evaluations).mean()

    reference, _ = value(1e-6)
    results = [value(tolerance) for tolerance in (1e-2, 1e-3, 1e-4)]
    errors = [np.sqrt(np.mean((v - reference) ** 2)) for v, _ in results]
    # A solver of order 5 errs in proportion to its tolerance; one with fixed steps, or whose steps see the state alone
    # and not the determinant, does not follow.
    assert errors[0] > 3.0 * errors[1] > 9.0 * errors[2], errors
    assert results[0][1] < results[1][1] < results[2][1]
    # In nats of three values, some 20 steps of that tolerance.
    assert errors[2] < 3e-3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Towards:
    """The mixture's denoiser, moved to a place of its own for each image."""

    mean: sj.PerImage

    def __call__(self, t, x):
        return sj.MixtureDenoiser(SDE, WEIGHTS, MEANS, STDS)(t, x - SDE.alpha(t) * self.mean.value) + self.mean.value


@pytest.mark.slow
def test_an_image_is_the_same_alone_in_a_batch_and_on_four_devices():
    shift = np.linspace(-0.4, 0.4, len(KEYS), dtype=np.float32)[:, None]
    x = draw(SDE, len(KEYS))
    batch = sj.log_likelihood(Towards(sj.PerImage(shift)), SDE, x + shift, KEYS)
    alone = sj.log_likelihood(Towards(sj.PerImage(shift[5:6])), SDE, x[5:6] + shift[5:6], KEYS[5:6])
    # Rounding, which may refuse a step; another image's probes or place are off by 0.1.
    np.testing.assert_allclose(alone.value[0], batch.value[5], atol=1e-3)
    # An image's steps are its own.
    assert np.ptp(np.asarray(batch.evaluations)) > 12
    # Moved data have moved densities, up to the ends: image k meets place k.
    still = sj.log_likelihood(Towards(sj.PerImage(0.0 * shift)), SDE, x, KEYS)
    np.testing.assert_allclose(batch.value, still.value, atol=0.02)
    mesh = sj.image_mesh()
    spread = sj.log_likelihood(Towards(sj.PerImage(shift)), SDE, sj.spread(x + shift, mesh), sj.spread(KEYS, mesh))
    assert len(spread.value.sharding.device_set) == 4
    np.testing.assert_allclose(spread.value, batch.value, atol=1e-3)


def test_bits_of_gaussian_images_are_their_entropy():
    std, shape = 0.25, (64, 4, 4, 3)
    images = np.clip(np.rint((std * np.random.default_rng(1).standard_normal(shape) + 1.0) * 127.5), 0, 255)
    found = sj.bits_per_dimension(
        sj.GaussianDenoiser(SDE, 0.0, std), SDE, images.astype(np.uint8), sj.keys(range(len(images)))
    )
    entropy = 0.5 * np.log2(2.0 * np.pi * np.e * std**2) + np.log2(127.5)
    # -log2 p of a value has the deviation 1 / (sqrt(2) log 2); 0.003 for the level, the clipping and the rounding. 256
    # or 255 in place of 127.5 is off by 1, nats by 30%.
    assert abs(float(np.mean(found.value)) - entropy) < 4.5 / (2.0 * images.size) ** 0.5 / np.log(2.0) + 0.003


@pytest.mark.parametrize("value", [0, 200, 255])
def test_bits_of_a_constant_are_those_of_the_noise_and_the_rounding(value):
    """p = N(c, l^2), and a uniform error of one 127.5th has the variance 1/12 of its square."""
    images = np.full((64, 4, 4, 3), value, np.uint8)
    found = sj.bits_per_dimension(sj.GaussianDenoiser(SDE, value / 127.5 - 1.0, 0.0), SDE, images, sj.keys([3] * 64))
    assert float(np.ptp(np.asarray(found.value))) < 1e-5  # a key is its dequantisation
    found = sj.bits_per_dimension(
        sj.GaussianDenoiser(SDE, value / 127.5 - 1.0, 0.0), SDE, images, sj.keys(range(100, 164))
    )
    level = 0.01
    squares = 1.0 / 12.0 / 127.5**2 / (2.0 * level**2) / np.log(2.0)
    exact = np.log2(127.5) + 0.5 * np.log2(2.0 * np.pi * level**2) + squares
    # The square of a uniform number has the deviation 0.9 of its mean. 4.5 standard errors: w without its half is off
    # by 3 squares, 0.11 bits; no dequantisation by 0.037.
    bits, deviation = np.asarray(found.value, np.float64), 0.9 * squares / images[0].size ** 0.5
    assert abs(bits.mean() - exact) < 4.5 * deviation / len(bits) ** 0.5 + 1e-3
    # 4.5 standard errors again: one w for every image leaves nothing, one for every value of an image 7 times as much.
    assert abs(bits.std() / deviation - 1.0) < 4.5 / (2.0 * len(bits)) ** 0.5


def test_another_denoiser_level_or_tolerance_compiles_nothing_and_other_probes_do(compilations):
    x = draw(SDE, 4)

    def value(mean, level=0.02, rtol=1e-3, probes=1):
        denoiser = sj.GuidedDenoiser(sj.GaussianDenoiser(SDE, mean, STD), sj.GaussianDenoiser(SDE, 0.0, 1.0), 1.5)
        return sj.log_likelihood(denoiser, SDE, x, KEYS[:4], level=level, rtol=rtol, probes=probes).value

    compilations(lambda: value(0.1))
    assert compilations(lambda: value(0.2)) == 0
    assert compilations(lambda: value(0.1, level=0.05)) == 0
    assert compilations(lambda: value(0.1, rtol=1e-2)) == 0
    assert compilations(lambda: value(0.1, probes=2)) > 0  # the counter does count


def test_evaluations_are_the_calls_of_the_denoiser():
    calls = []

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Counted:
        def __call__(self, t, x):
            jax.debug.callback(lambda: calls.append(1))
            return of_mixture(SDE)(t, x)

    found = sj.log_likelihood(Counted(), SDE, draw(SDE, 1), KEYS[:1])
    jax.effects_barrier()
    # 1 more without the stage that two steps share, for each step.
    assert len(calls) == int(found.evaluations[0])


@pytest.mark.slow
def test_a_network_is_evaluated_with_the_prompt_of_each_image():
    model = tiny_model(scale=0.1)
    x = jax.random.uniform(jax.random.key(0), (2, *model.shape), minval=-1.0)

    def value(*prompts):
        found = sj.log_likelihood(model.denoiser(prompts), model.sde, x, KEYS[:2], level=0.3, rtol=1e-3, atol=1e-3)
        return np.asarray(found.value)

    red, blue, both = (
        value("red heart", "red heart"),
        value("blue heart", "blue heart"),
        value("red heart", "blue heart"),
    )
    # One program, so to the last bit or two; with the prompts of the batch exchanged it would be off by the difference.
    np.testing.assert_allclose(both, [red[0], blue[1]], rtol=1e-6)
    assert np.all(np.abs(red - blue) > 0.1)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("probes=0", {"probes": 0}),
        ("max_steps=1.5", {"max_steps": 1.5}),
        ("divergence='vjp'", {"divergence": "vjp"}),
        ("rtol=0.0", {"rtol": 0.0}),
        ("atol=inf", {"atol": float("inf")}),
        ("level=0.0", {"level": 0.0}),
        ("level=300.0", {"level": 300.0}),
        ("max_steps=3", {"max_steps": 3}),  # an integral that is cut off has no value
        ("images shape=(2, 3)", {"images": np.zeros((2, 3), np.float32)}),
        ("images dtype=uint8", {"images": np.zeros((4, 3), np.uint8)}),
        ("image 2", {"images": np.array([[0.0], [0.0], [np.nan], [0.0]], np.float32)}),
    ],
)
def test_bad_arguments_are_refused_by_name_and_value(name, argument):
    arguments = {"images": np.zeros((4, 3), np.float32), **argument}
    with pytest.raises(ValueError) as error:  # noqa: PT011
        sj.log_likelihood(sj.GaussianDenoiser(SDE), SDE, keys=KEYS[:4], **arguments)
    assert name in str(error.value)


def test_a_process_has_no_level_below_its_own():
    sde = sj.VESDE(sigma_min=0.02)
    x = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"level=0\.01: .* at least 0\.02 and below 50"):
        sj.log_likelihood(sj.GaussianDenoiser(sde), sde, x, KEYS[:4], level=0.01)
    with pytest.raises(ValueError, match="images dtype=float32"):
        sj.bits_per_dimension(sj.GaussianDenoiser(sde), sde, x, KEYS[:4])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Broken:
    """Not a number at the larger half of the times."""

    def __call__(self, t, x):
        return jnp.where(t < 0.5, 0.0 * x, jnp.nan)


@pytest.mark.slow
def test_what_is_not_a_number_is_an_error_and_soon():
    x = jnp.zeros((4, 3))
    with pytest.raises(ValueError, match="image 0 did not come to the end"):
        sj.log_likelihood(Broken(), SDE, x, KEYS[:4])
    for denoiser, images in ((Broken(), x), (sj.GaussianDenoiser(SDE), x.at[2].set(jnp.nan))):
        found = jax.jit(lambda d, x: sj.log_likelihood(d, SDE, x, KEYS[:4]))(denoiser, images)
        # Refused steps shrink by 5, and 10 of them are below float32; else there would be max_steps of them, 24,577.
        assert bool(jnp.isnan(found.value[2])) and int(found.evaluations[2]) < 400


def test_inside_a_program_of_ones_own_what_failed_is_nan():
    value = jax.jit(lambda x: sj.log_likelihood(sj.GaussianDenoiser(SDE), SDE, x, KEYS[:4], max_steps=3).value)
    assert bool(jnp.isnan(value(jnp.zeros((4, 3)))).all())
