"""The score network as a whole."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.denoiser.prediction import PredictNoise, PredictScore
from sdejax.model.networks import FlaxNetwork, parameter_count
from sdejax.model.parametrisation import Parametrisation, TimeLabel
from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.nn.params import from_names, shapes, to_names
from sdejax.pretrained.load import load
from sdejax.sde.variance_exploding import VESDE
from sdejax.sde.variance_preserving import VPSDE
from tests.tiny import TWO_LEVELS as CONFIG
from tests.tiny import VOCABULARY, parameters, tiny_model

_NCSNPP = {"fir": True, "embedding": "fourier", "words": 0, "scale_by_sigma": True}
VARIANTS = {
    "DDPM++ with text": {},
    "DDPM++ with classes": {"words": 0, "classes": 4},
    "NCSN++ on a wide image": {**_NCSNPP, "shape": (8, 16, 3), "progressive_input": "residual"},
    "NCSN++ with pyramids": {**_NCSNPP, "progressive_input": "input_skip", "progressive": "output_skip"},
    "concatenated and residual pyramids": {
        **_NCSNPP,
        "progressive_input": "input_skip",
        "progressive_combine": "cat",
        "progressive": "residual",
        "attention_up": "every",
    },
    "DDPM": {"resblock": "ddpm", "rescale": False, "words": 0, "groups": 4},
    "DDPM with filters and residual pyramids": {
        "resblock": "ddpm",
        "fir": True,
        "progressive_input": "residual",
        "progressive": "residual",
        "words": 0,
    },
    "patches and plain resampling": {"patch": 2, "shape": (16, 16, 3), "resblock": "ddpm", "resample_with_conv": False},
}
PUBLISHED = {
    "CIFAR-10 NCSN++": (NCSNppConfig.ncsnpp(32), 62.759),
    "CIFAR-10 NCSN++ deep": (NCSNppConfig.ncsnpp(32, deep=True), 107.587),
    "CIFAR-10 DDPM++": (NCSNppConfig.ddpmpp(32), 61.804),
    "CIFAR-10 DDPM++ deep": (NCSNppConfig.ddpmpp(32, deep=True), 106.633),
    "CIFAR-10 DDPM": (NCSNppConfig.ddpm(32), 35.219),
    "256 NCSN++": (NCSNppConfig.ncsnpp(256), 65.574),
    "1024 NCSN++": (NCSNppConfig.ncsnpp(1024), 105.786),
    # Ho et al. 2020 attend behind every block of the way up.
    "CIFAR-10 DDPM of 2020": (NCSNppConfig.ddpm(32, attention_up="every"), 35.746),
    "256 DDPM of 2020": (NCSNppConfig.ddpm(256, attention_up="every"), 113.673),
}


_run = jax.jit(lambda network, *inputs: network(*inputs))


def _network(config):
    return functools.partial(_run, FlaxNetwork(config, parameters(config)))


def _inputs(config):
    """Two images, their labels, and the condition that the network takes."""
    condition = None
    if config.words:
        condition = jnp.asarray(VOCABULARY.encode(["red heart", "blue heart"]))
    elif config.classes:
        condition = jnp.array([1, 3])
    return jax.random.normal(jax.random.key(1), (2, *config.shape)), jnp.linspace(-1.0, 2.0, 2), condition


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_do_not_mix_and_every_condition_reaches_the_output(variant):
    # Rejects statistics over the batch, an embedding that is dropped on the way, and a condition that is not read.
    config = dataclasses.replace(CONFIG, **VARIANTS[variant])
    network = _network(config)
    x, label, condition = _inputs(config)
    out = network(x, label, condition)
    assert out.shape == x.shape
    assert out.dtype == jnp.float32
    other = network(x.at[1].add(1.0), label, condition)
    np.testing.assert_allclose(out[0], other[0], atol=1e-5)
    assert jnp.abs(out[1] - other[1]).max() > 1e-2
    assert jnp.abs(out - network(x, label + 0.5, condition)).max() > 1e-2
    if condition is not None:
        changed = network(x, label, condition.at[1].set(condition[0]))
        np.testing.assert_allclose(out[0], changed[0], atol=1e-5)
        assert jnp.abs(out[1] - changed[1]).max() > 1e-2


def test_a_table_of_zeros_is_a_network_without_classes():
    # Rejects a class that acts by more than its vector, such as one that is concatenated or scales the embedding.
    plain = dataclasses.replace(CONFIG, words=0)
    config = dataclasses.replace(plain, classes=4)
    params = parameters(plain)
    x, label, classes = _inputs(config)
    named = {**to_names(params), "classes.embedding": np.zeros((4, config.embedding_width), np.float32)}
    network = FlaxNetwork(config, from_names(FlaxNetwork.abstract(config).params, named))
    np.testing.assert_array_equal(_run(network, x, label, classes), _run(FlaxNetwork(plain, params), x, label, None))


@pytest.mark.slow
def test_gradients_reach_the_rows_of_the_classes_that_were_given():
    # Rejects a table outside of the parameters, and class numbers off by one.
    config = dataclasses.replace(CONFIG, words=0, classes=4)
    x, label, classes = _inputs(config)

    @jax.jit
    def gradient(params):
        return jax.grad(lambda params: jnp.sum(jnp.square(FlaxNetwork(config, params)(x, label, classes))))(params)

    table = to_names(gradient(parameters(config)))["classes.embedding"]
    np.testing.assert_array_equal(jnp.any(table != 0.0, 1), [False, True, False, True])


@pytest.mark.parametrize(("change", "kind"), [({"words": 0, "classes": 4}, "class numbers"), ({}, "tokens")])
def test_a_missing_condition_is_an_error(change, kind):
    config = dataclasses.replace(CONFIG, **change)
    x, label, _ = _inputs(config)
    with pytest.raises(ValueError, match=f"condition=None: must be {kind}"):
        jax.eval_shape(lambda network: network(x, label, None), FlaxNetwork.abstract(config))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_networks_have_the_published_number_of_parameters(name):
    # Millions, exact to a thousand. Rejects one attention more or less, a 3 x 3 skip, a block too few on the way up.
    config, millions = PUBLISHED[name]
    assert round(parameter_count(FlaxNetwork.abstract(config).params) / 1e6, 3) == millions


def test_an_unconditional_network_ignores_its_label():
    config = dataclasses.replace(CONFIG, conditional=False, words=0)
    network = _network(config)
    x, label, _ = _inputs(config)
    np.testing.assert_array_equal(network(x, label, None), network(x, label + 1.0, None))
    assert not any("embed" in name for name in shapes(FlaxNetwork.abstract(config).params))


def test_scale_by_sigma_divides_by_the_noise_level():
    # The label is the logarithm of the noise level. Rejects a product, and the label itself as the divisor.
    config = dataclasses.replace(CONFIG, embedding="fourier", words=0)
    x, label, _ = _inputs(config)
    plain, scaled = _network(config), _network(dataclasses.replace(config, scale_by_sigma=True))
    wanted = plain(x, label, None)
    np.testing.assert_allclose(scaled(x, label, None) * jnp.exp(label)[:, None, None, None], wanted, rtol=1e-5)


@pytest.mark.slow
def test_blocks_computed_again_give_the_same_gradient():
    """`remat` changes only the memory: the gradient is the same, with dropout, and fewer numbers are kept."""
    config = dataclasses.replace(CONFIG, dropout=0.3, multipliers=(1,), attention=(8,))
    x, label, tokens = _inputs(config)
    kept, gradients = [], []
    for remat in (False, True):
        network = FlaxNetwork(dataclasses.replace(config, remat=remat), parameters(config))

        def loss(network):
            return jnp.sum(jnp.square(network(x, label, tokens, jax.random.key(0))))

        gradients.append(jax.jit(jax.grad(loss))(network))
        residuals = jax.eval_shape(lambda network, loss=loss: jax.vjp(loss, network)[1], network)
        kept.append(sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(residuals)))
    first, second = (jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]) for tree in gradients)
    # float32; another dropout mask in the second pass is off by the gradient itself.
    assert jnp.linalg.norm(first - second) < 1e-5 * jnp.linalg.norm(second)
    assert kept[1] < 0.6 * kept[0]


def test_a_fresh_network_is_zero():
    # The last layer starts at 0, so that a fresh denoiser is its parametrisation alone.
    np.testing.assert_array_equal(_run(FlaxNetwork.create(CONFIG), *_inputs(CONFIG)), 0.0)


def test_parameters_have_readable_names():
    names = set(shapes(FlaxNetwork.abstract(CONFIG).params))
    assert "down.8x8.block0.conv0.kernel" in names
    assert "down.4x4.caption0.query.kernel" in names
    assert "middle.attention.out.bias" in names
    assert "up.4x4.upsample.conv1.kernel" in names
    assert not any("attention" in name for name in names if name.startswith("down.8x8"))


@pytest.mark.slow
def test_the_bundled_denoiser_in_bfloat16_stays_near_float32_at_every_noise_level():
    """To 2% in relative norm; measured 0.6%. Rejects a last layer, or statistics of groups, in bfloat16."""
    exact = load(Path(__file__).parents[2] / "checkpoints" / "emoji32")
    config = dataclasses.replace(exact.config, dtype="bfloat16")
    quick = dataclasses.replace(exact, network=dataclasses.replace(exact.network, config=config))
    call = jax.jit(lambda denoiser, t, x: denoiser(t, x))
    x = jnp.zeros((2, *exact.shape)).at[:, 8:24, 8:24].set(jnp.array([0.8, -0.6, -0.7]))
    for t in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        noisy = exact.sde.perturb(t, x, jax.random.normal(jax.random.key(0), x.shape))
        wanted, found = (call(model.denoiser("red heart"), jnp.float32(t), noisy) for model in (exact, quick))
        assert jnp.linalg.norm(found - wanted) < 0.02 * jnp.linalg.norm(wanted), t


@pytest.mark.parametrize("family", ["ddpmpp", "ncsnpp"])
def test_a_random_denoiser_in_bfloat16_stays_near_float32_at_every_noise_level(family):
    """To 2% in relative norm. Rejects statistics, softmaxes, the label's embedding or a last layer in bfloat16."""
    if family == "ddpmpp":
        config, how, sde = CONFIG, Parametrisation(PredictNoise(), TimeLabel()), VPSDE()
    else:
        changes = {**VARIANTS["NCSN++ with pyramids"], "fourier_scale": 1.0}
        config, how, sde = dataclasses.replace(CONFIG, **changes), Parametrisation(PredictScore()), VESDE()
    x = 0.5 * jax.random.normal(jax.random.key(1), (2, *config.shape))
    noise = jax.random.normal(jax.random.key(2), x.shape)
    call = jax.jit(lambda denoiser, t, x: denoiser(t, x))
    models = [tiny_model(dataclasses.replace(config, dtype=d), sde, how) for d in ("float32", "bfloat16")]
    for t in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        noisy = sde.perturb(t, x, noise)
        exact, quick = (call(model.denoiser(), jnp.float32(t), noisy) for model in models)
        assert quick.dtype == jnp.float32
        assert jnp.linalg.norm(quick - exact) < 0.02 * jnp.linalg.norm(exact), t
        assert not np.array_equal(quick, exact)


def test_dropout_follows_its_key_and_is_off_without_one():
    config = dataclasses.replace(CONFIG, dropout=0.5)
    network = _network(config)
    x, label, tokens = _inputs(config)
    a, b, c = (network(x, label, tokens, jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert jnp.abs(a - c).max() > 1e-2
    np.testing.assert_array_equal(network(x, label, tokens), network(x, label, tokens))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: NCSNppConfig(shape=(12, 10, 3)), r"shape=\(12, 10, 3\): height and width must be multiples of 8"),
        (lambda: NCSNppConfig(blocks=0), "blocks=0"),
        (lambda: NCSNppConfig(progressive="skip"), "progressive='skip': must be one of none, output_skip, residual"),
        (lambda: NCSNppConfig(dropout=1.0), "dropout=1.0: must be at least 0 and below 1"),
        (lambda: NCSNppConfig(conditional=False, words=3), "words=3, conditional=False"),
        (lambda: NCSNppConfig(conditional=False, classes=3), "classes=3"),
        (lambda: NCSNppConfig(words=3, classes=3), "classes=3"),
        (lambda: NCSNppConfig.ncsnpp(64), "size=64: must be one of 32, 256, 1024"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_field(make, told):
    with pytest.raises(ValueError, match=told):
        make()
