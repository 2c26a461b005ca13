"""A network as a denoiser: the same for every process, and per image."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.model.model import UnknownWordWarning
from sdejax.model.parametrisation import Parametrisation
from tests.tiny import CONFIG, tiny_model


@jax.jit
def call(denoiser, t, x):
    return denoiser(t, x)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_one_network_is_one_denoiser_under_every_process(model):
    """x / alpha and sigma / alpha are all that an edm denoiser sees, so D agrees where they do.

    2e-4 relative: float32 times through tau and back. Rejects a label of t, and an input scale that forgets alpha.
    """
    x0 = jax.random.normal(jax.random.key(0), (2, *model.shape))
    for level in (0.05, 1.0, 30.0):
        results = []
        for sde in (sj.VPSDE(), sj.SubVPSDE(), sj.VESDE(), sj.RectifiedFlow()):
            t = sde.time(jnp.float32(level**2))
            denoiser = dataclasses.replace(model, sde=sde).denoiser("red heart")
            results.append(call(denoiser, t, sde.alpha(t) * x0 * (1.0 + level)))
        for other in results[1:]:
            np.testing.assert_allclose(other, results[0], rtol=2e-4, atol=2e-4)


def test_a_flow_denoiser_is_finite_where_alpha_is_zero(model):
    # Rejects any division by alpha at RF's t = 1.
    for prediction in (sj.EDM(), sj.PredictVelocity(), sj.PredictCleanImage()):
        flow = dataclasses.replace(model, sde=sj.RectifiedFlow(), parametrisation=Parametrisation(prediction))
        out = call(flow.denoiser("red heart"), jnp.float32(1.0), jnp.ones((1, *model.shape)))
        assert np.isfinite(out).all()


def test_guidance_zero_one_and_beyond(model):
    # D = D_neg + w (D_prompt - D_neg). Rejects 1 + w, and a swap of the two.
    t, x = jnp.float32(0.6), jax.random.normal(jax.random.key(1), (2, *model.shape))
    prompt, empty = call(model.denoiser("red heart"), t, x), call(model.denoiser(), t, x)
    assert jnp.abs(prompt - empty).max() > 1e-3
    np.testing.assert_allclose(call(model.denoiser("red heart", 0.0), t, x), empty, atol=1e-6)
    np.testing.assert_allclose(call(model.denoiser("red heart", 1.0), t, x), prompt, atol=1e-5)
    np.testing.assert_allclose(call(model.denoiser("red heart", 3.0), t, x), 3.0 * prompt - 2.0 * empty, atol=1e-4)
    away = call(model.denoiser("red heart", 2.0, negative="blue heart"), t, x)
    np.testing.assert_allclose(away, 2.0 * prompt - call(model.denoiser("blue heart"), t, x), atol=1e-4)


def test_a_prompt_for_each_image(model):
    t, x = jnp.float32(0.6), jax.random.normal(jax.random.key(1), (2, *model.shape))
    both = call(model.denoiser(["red heart", "blue heart"]), t, x)
    np.testing.assert_allclose(both[0], call(model.denoiser("red heart"), t, x)[0], atol=1e-5)
    np.testing.assert_allclose(both[1], call(model.denoiser("blue heart"), t, x)[1], atol=1e-5)


@pytest.mark.slow
def test_an_image_alone_is_the_image_in_a_batch(model):
    # 1e-5: XLA rounds other batch sizes differently.
    sampler = sj.Sampler(steps=5)
    batch = sj.sample(model.denoiser("red heart"), model.sde, sj.keys(range(4)), model.shape, sampler=sampler)
    alone = sj.sample(model.denoiser("red heart"), model.sde, sj.keys([2]), model.shape, sampler=sampler)
    np.testing.assert_allclose(batch[2], alone[0], atol=1e-5 * float(jnp.abs(batch).max()))


@pytest.mark.slow
def test_images_spread_over_devices_are_the_same(model):
    keys, sampler = sj.keys(range(4)), sj.Sampler(steps=5)
    prompts = ["red heart", "blue heart", "green circle", ""]
    plain = sj.sample(model.denoiser(prompts), model.sde, keys, model.shape, sampler=sampler)
    spread = sj.spread(keys, sj.image_mesh())
    split = sj.sample(model.denoiser(prompts), model.sde, spread, model.shape, sampler=sampler)
    np.testing.assert_allclose(plain, split, atol=1e-5 * float(jnp.abs(plain).max()))


@pytest.mark.slow
def test_weights_prompts_and_guidance_compile_nothing(model, compilations):
    other = tiny_model(seed=1)
    keys, guide = sj.keys(range(2)), jnp.zeros((1, *model.shape))
    sampler = sj.Sampler(steps=3)

    def run(model, source, target, guidance, strength):
        denoisers = model.denoiser(source, guidance), model.denoiser(target, guidance)
        return sj.sync_sde(*denoisers, model.sde, guide, keys, strength=strength, sampler=sampler)

    first = run(model, "red heart", "blue heart", 2.0, 0.8)
    for changed in (
        (other, "red heart", "blue heart", 2.0, 0.8),
        (model, "red heart", "green circle", 2.0, 0.8),
        (model, "red heart", "blue heart", 3.0, 0.8),
        (model, "red heart", "blue heart", 2.0, 0.5),
    ):
        results = []
        assert compilations(lambda: results.append(run(*changed))) == 0  # noqa: B023
        assert np.abs(np.asarray(results[0]) - np.asarray(first)).max() > 1e-4


def test_words_and_prompts_that_do_not_fit(model):
    with pytest.warns(UnknownWordWarning, match="'hart'.*heart"):
        model.denoiser("red hart")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.denoiser("red heart", 2.0)
    with pytest.raises(ValueError, match="guidance=nan"):
        model.denoiser("red heart", float("nan"))
    wordless = tiny_model(dataclasses.replace(CONFIG, words=0, attention=()))
    with pytest.raises(ValueError, match="prompt='red heart': this model was trained without text"):
        wordless.denoiser("red heart")
    assert wordless.denoiser() is not None
